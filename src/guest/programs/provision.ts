import { GUEST_USER } from '../keys.js';
import { programText } from '../program.js';

/** Texts of the .network files of the guest's two networks. */
export interface Provision {
  management: string;
  egress: string;
}

/** The program that prepares the root folder of a layer that is made on the host, with its variables. */
export const provisionText = ({ management, egress }: Provision): Promise<string> =>
  programText('provision.sh', {
    GUEST_USER,
    NETWORK_MANAGEMENT: management,
    NETWORK_EGRESS: egress,
  });
