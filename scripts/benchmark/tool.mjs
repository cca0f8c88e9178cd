/** The tool's own modules; memory snapshots are reached through them, not through its command line. */
export const dist = (path) => import(new URL(`../../dist/${path}`, import.meta.url).href);
