#!/usr/bin/env bash
# Runs a matrix as a CI job: for scripts/github-action and scripts/gitlab-ci.yml, whose inputs come by the environment.
#   DKMS2BIN_MODULES, _KERNELS, _DISTROS, _OPTIONS  lists, one element a line: --dkms, --kernel, --distro, further options
#   DKMS2BIN_OUT_DIR, DKMS2BIN_REPORT_DIR           folders for packages, and for report.html, junit.xml, summary.md
#   DKMS2BIN_FAIL_ON                                any: every exit code but 0 is the job's (default); module: only that of
#                                                   a module that failed; never
# Under GitHub Actions the summary goes to the job's page, and the exit code of dkms2bin becomes the output `exit-code`.
set -euo pipefail

here=$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")
reports=${DKMS2BIN_REPORT_DIR:-dkms2bin-report}
fail_on=${DKMS2BIN_FAIL_ON:-any}
case $fail_on in
  any | module | never) ;;
  *)
    echo "fail-on is any, module or never, not $fail_on" >&2
    exit 2
    ;;
esac

arguments=(matrix)
# Usage: add LIST [OPTION]  each line of the list, but empty ones, after OPTION; blanks around it do not count.
add() {
  local line
  while IFS=$' \t\r' read -r line; do
    if [[ -n $line ]]; then arguments+=(${2:+"$2"} "$line"); fi
  done <<<"$1"
}
add "${DKMS2BIN_MODULES-}" --dkms
add "${DKMS2BIN_KERNELS-}" --kernel
add "${DKMS2BIN_DISTROS-}" --distro
add "${DKMS2BIN_OPTIONS-}"
arguments+=(--out-dir "${DKMS2BIN_OUT_DIR:-out}")
mkdir -p -- "$reports"
for file in report.html junit.xml summary.md; do arguments+=(--report "$reports/$file"); done

code=0
"$here/dkms2bin" "${arguments[@]}" || code=$?
if [[ -n ${GITHUB_OUTPUT-} ]]; then echo "exit-code=$code" >>"$GITHUB_OUTPUT"; fi
if [[ -n ${GITHUB_STEP_SUMMARY-} && -e $reports/summary.md ]]; then cat -- "$reports/summary.md" >>"$GITHUB_STEP_SUMMARY"; fi
case $fail_on:$code in
  never:130) exit 130 ;; # Cancelled.
  never:* | module:[3456]) exit 0 ;;
esac
exit "$code"
