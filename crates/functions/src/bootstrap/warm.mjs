// Imported by a spare before it is needed, so that Node.js has its loaders ready: of modules of both kinds.
import { createRequire } from 'node:module';
createRequire('/var/runtime/')('./warm.cjs');
