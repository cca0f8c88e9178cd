import type { Signer as AttestSigner } from '../attest/dsse.js';
import type { BuildFacts } from '../attest/facts.js';
import type { CompileCount } from '../compiler/service.js';
import type { Booted } from '../environment/boot.js';
import type { KernelEnvironment } from '../environment/snapshot.js';
import type { Guest } from '../guest/guest.js';
import type { ModuleReport } from '../guest/programs/build.js';
import type { Collected } from '../guest/programs/collect.js';
import type { CellResult, KernelTarget } from '../model/cell.js';
import type { PackedPackage } from '../pack/module-package.js';
import type { Signer } from '../pack/sign.js';
import type { Phase } from './phases.js';
import type { PrebootedVm } from './prebooted-vm.js';
import type { RunDir } from './run-dir.js';
import type { Prepared, SourceInput } from './source.js';
import type { SourceReading } from './source-reading.js';

/** What an invocation says of itself in the provenance of all its packages. */
interface Invocation {
  /** Of the run, as `--json` prints it. */
  id: string;
  /** The DKMS source, image and mirrors as asked for. */
  options: BuildFacts['options'];
  /** Signs the provenance; null: it is written unsigned. */
  signer: AttestSigner | null;
}

export interface CellInput extends SourceInput {
  /** What to call the cell in messages. */
  label: string;
  target: KernelTarget;
  environment: KernelEnvironment;
  outDir: string;
  /** Signs the modules; null: they stay as they were built. */
  signer: Signer | null;
  invocation: Invocation;
  nameStyle: 'release' | 'dkms';
  verify: boolean;
  /** A module that the kernel warns of has failed. */
  strict: boolean;
  /** Packs what dkms strips from the modules into a package of its own. */
  debugSymbols: boolean;
  /** Builds twice; what does not come out the same has failed. */
  checkReproducible: boolean;
  force: boolean;
  debug: boolean;
  keepFailed: boolean;
  timeoutMs: number;
  /** Called while the VM of a failed build still runs, when it will be kept. */
  onFailure?: (run: RunDir) => Promise<void>;
}

/** What of a build's surroundings must not show in its result. */
export interface BuildConditions {
  boot: (dir: string) => Promise<Booted>;
  /** What compiles on the host, when something is to; a folder. */
  compiler: string | null;
  /** For make. */
  jobs: number;
  /** Changes the guest when it needs the network no more and before the package's own code runs. */
  disguise?: (guest: Guest) => Promise<void>;
}

/** What a build VM made, and what the host read of the source. */
export interface Built {
  reports: ModuleReport[];
  /** Where its files were compiled, when the host took part. */
  compilations?: CompileCount | undefined;
  collected: Collected;
  reading: SourceReading;
}

// The record of a cell, as each of its steps leaves it.

export interface Sourced {
  input: CellInput;
  startedOn: Date;
  /** Wall seconds of each phase, shared by all results of the cell. */
  phases: Record<string, number>;
  phase: Phase;
  prepared: Prepared;
  /** What the very same input is known again by. */
  identity: string;
}

/** A cell that has to be built, with its folder and its VMs. */
export interface Opened extends Sourced {
  run: RunDir;
  /** Has never run the package's build. */
  verifyVm: PrebootedVm;
  conditions: BuildConditions;
}

export interface Compiled extends Opened {
  built: Built;
}

/** A module's packages in the run's folder. */
export interface PackedModule {
  packages: readonly PackedPackage[];
  /** Path of the one that holds the modules. */
  main: string;
  /** Names of its kernel modules, as modprobe takes them. */
  koNames: readonly string[];
  /** Modules of the kernel that those ask for. */
  needs: readonly string[];
}

/** One module of the cell's source. */
export interface CellModule {
  report: ModuleReport;
  result: CellResult;
  /** Its own cell of the request reports and publishes it; here it is there for the modules that need it. */
  ownedByOtherCell: boolean;
  /** Its make.log; null when no build ran. */
  log: Buffer | null;
  /** Null for a module that was not built, or could not be packed. */
  packed: PackedModule | null;
}

export interface Packaged extends Compiled {
  modules: readonly CellModule[];
}

/** As packed, with what the verify VM found in the modules' results. */
export interface Verified extends Packaged {
  /** False where no verification was asked for. */
  verified: boolean;
}

/** Reason of a result whose package was there already. */
export const UP_TO_DATE = 'up to date';

/** A result, and what was published of it. */
export interface BuiltRecord {
  result: CellResult;
  /** SHA-256 by file name in the out-dir. */
  packages: Record<string, string>;
  attestation: Attestation;
}

/** What is said of a module's packages, so that it can be written again, and signed by another key. */
export interface Attestation {
  /** JSON of the provenance, not signed. */
  statement: string;
  /** Text by the package's file name. */
  sboms: Record<string, string>;
}

export interface Delivered {
  results: CellResult[];
  /** Of each published module. */
  records: BuiltRecord[];
}
