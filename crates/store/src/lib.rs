//! All SQL of the control plane: desired and observed state, the lease queue, the journal, sealed secrets.
