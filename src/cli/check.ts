export interface Check {
  name: string;
  /** `missing` makes the exit code 4; `warn` is worth knowing. */
  status: 'ok' | 'warn' | 'missing';
  detail: string;
  remedy: string | null;
}
