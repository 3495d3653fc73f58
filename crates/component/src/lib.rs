//! Pure vocabulary and decisions: what a component is, what is wanted of it, and the next step towards it.
