//! Wire types of the API and the typed client that the command line and the tests use.
