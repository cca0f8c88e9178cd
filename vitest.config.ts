import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    projects: [
      {
        test: {
          name: 'unit',
          include: ['test/unit/**/*.test.ts'],
          // Loading the libraries anew for each file costs a third of all CPU seconds. A file must put back what it changes.
          isolate: false,
          setupFiles: ['test/unit/setup.ts'],
          // For what hangs: on a busy host the slowest take twenty seconds.
          testTimeout: 60_000,
          hookTimeout: 60_000,
          // By default one core is left alone: with two, one file would wait for the other's waits.
          maxWorkers: '100%',
        },
      },
      {
        test: {
          // What needs programs of the host and many processes: apt, rpm, QEMU's probe, the agent. Too slow for every commit.
          name: 'host',
          include: ['test/host/**/*.test.ts'],
          testTimeout: 60_000,
          hookTimeout: 60_000,
          maxWorkers: '100%',
        },
      },
      {
        test: {
          name: 'browser',
          include: ['test/browser/**/*.test.ts'],
          testTimeout: 60_000,
          hookTimeout: 60_000,
          maxWorkers: '100%',
        },
      },
      {
        test: {
          name: 'queue',
          include: ['test/queue/**/*.test.ts'],
          globalSetup: ['test/queue/setup.ts'],
          testTimeout: 60_000,
          hookTimeout: 60_000,
          maxWorkers: '100%',
        },
      },
      {
        test: {
          // The command on a pseudo-terminal, driven from outside.
          name: 'pty',
          include: ['test/pty/**/*.test.ts'],
          testTimeout: 60_000,
          hookTimeout: 60_000,
          maxWorkers: '100%',
        },
      },
      {
        test: {
          name: 'package',
          include: ['test/package/**/*.test.ts'],
          testTimeout: 5 * 60_000,
          hookTimeout: 5 * 60_000,
          maxWorkers: '100%',
        },
      },
      {
        test: {
          name: 'vm',
          include: ['test/vm/**/*.test.ts'],
          globalSetup: ['test/vm/setup.ts'],
          testTimeout: 45 * 60_000,
          hookTimeout: 45 * 60_000,
          // A guest under TCG hardly fills a core. All files share one cache.
          maxWorkers: 2,
        },
      },
      {
        test: {
          // The tool killed at every step, with a stand-in for the guest: minutes, but no VM.
          name: 'kill',
          include: ['test/kill/**/*.test.ts'],
          globalSetup: ['test/queue/setup.ts'],
          testTimeout: 60 * 60_000,
          hookTimeout: 5 * 60_000,
        },
      },
      {
        test: {
          // Packages that mean harm, and the tool killed, in VMs.
          name: 'hostile',
          include: ['test/hostile-vm/**/*.test.ts'],
          globalSetup: ['test/vm/setup.ts'],
          testTimeout: 60 * 60_000,
          hookTimeout: 60 * 60_000,
          fileParallelism: false,
        },
      },
      {
        test: {
          // The distros' own dkms beside ours, in namespaces.
          name: 'conformance',
          include: ['test/conformance/**/*.test.ts'],
          testTimeout: 10 * 60_000,
          hookTimeout: 30 * 60_000,
          fileParallelism: false,
        },
      },
      {
        test: {
          // Every DKMS package of a distro, likewise: an hour and more.
          name: 'archive',
          include: ['test/archive/**/*.test.ts'],
          testTimeout: 6 * 3600_000,
          hookTimeout: 30 * 60_000,
          fileParallelism: false,
        },
      },
      {
        test: {
          // Every official image, or what stands in for it: too long for each commit.
          name: 'official',
          include: ['test/official/**/*.test.ts'],
          globalSetup: ['test/official/setup.ts'],
          testTimeout: 2 * 3600_000,
          hookTimeout: 2 * 3600_000,
          fileParallelism: false,
        },
      },
    ],
  },
});
