import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    projects: [
      { test: { name: 'unit', include: ['test/unit/**/*.test.ts'], testTimeout: 20_000 } },
      {
        test: {
          name: 'vm',
          include: ['test/vm/**/*.test.ts'],
          testTimeout: 45 * 60_000,
          hookTimeout: 45 * 60_000,
          // A guest under TCG fills a core, so files run one after the other and share one cache.
          fileParallelism: false,
        },
      },
    ],
  },
});
