//! Makes components real on this host: PostgreSQL servers as units of the keeper behind the gateway.
