import type { Command } from '../frame.js';
import { bisect } from './bisect.js';
import { board } from './board.js';
import { build } from './build.js';
import { completeFor, completion } from './completion.js';
import { doctor } from './doctor.js';
import { imagesList, imagesPrune, imagesUpdate, imagesVerify, imagesWarm } from './images.js';
import { init } from './init.js';
import { inspect } from './inspect.js';
import { kernels } from './kernels.js';
import { keygen } from './keygen.js';
import { login } from './login.js';
import { matrix } from './matrix.js';
import { prove } from './prove.js';
import { refresh } from './refresh.js';
import { repoPublish, repoServe } from './repo.js';
import { rm } from './rm.js';
import { runs } from './runs.js';
import { worker } from './worker.js';

export const ABOUT =
  'Turns DKMS packages into binary kernel-module packages for exact kernels, built in a disposable virtual machine that runs that very kernel. Needs no root.';

/** Commands that only hold others. */
export const PARENTS: Readonly<Record<string, { summary: string; description: string; usage?: string }>> = {
  images: {
    summary: 'list, shrink, check or fill the cache of disk images',
    description:
      'The cache holds disk images, kernel layers on top of them (an exact kernel with its compiler) and memory snapshots of booted layers. Builds make and share them; whatever is removed is made again when a build needs it.',
  },
  repo: {
    summary: 'turn a folder of packages into a repository for apt and dnf, or serve one to try it out',
    description:
      'Turns a folder of .deb and .rpm files into a package repository that any web server can serve: an apt repository (flat: the packages stay where they are) when it has .deb files, a dnf repository when it has .rpm files. Run it again after each change to the folder; clients may read it meanwhile.',
    usage: '<dir> [options]\n       dkms2bin repo serve <dir> [--port N]',
  },
};

const FOR_PEOPLE: readonly Command[] = [
  ...[
    build,
    init,
    bisect,
    login,
    runs,
    rm,
    imagesList,
    imagesPrune,
    imagesVerify,
    imagesWarm,
    imagesUpdate,
    inspect,
    kernels,
  ],
  ...[matrix, worker, board, refresh, repoPublish, repoServe, prove, keygen, doctor, completion],
];

/** Every command, in the order in which help shows them. */
export const COMMANDS: readonly Command[] = [...FOR_PEOPLE, completeFor(FOR_PEOPLE)];
