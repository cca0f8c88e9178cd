// got looks into Node's TLS sockets as it is loaded, and failed there when tests had run in the same process before.
import 'got';
