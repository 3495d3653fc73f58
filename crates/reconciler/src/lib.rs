//! Claims a component, observes it, plans one step, acts, records; again and again until what is wanted is so.
