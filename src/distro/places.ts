/** One place where a kernel or a package was looked for, and what came of it. */
export interface Place {
  where: string;
  outcome: string;
}

/** The places tried as the last lines of an error. */
export function listed(places: readonly Place[]): string {
  return `. Looked in:\n${places.map(({ where, outcome }) => `  ${where}: ${outcome}`).join('\n')}`;
}
