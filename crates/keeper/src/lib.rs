//! The one process of a host that is root: starts, stops, restarts, limits and reaps declared units.
