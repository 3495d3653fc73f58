//! The server settings that follow from a spec. Values are written the way PostgreSQL itself shows them
//! (`current_setting`), and names the way `pg_settings` lists them (`TimeZone`, but `log_timezone`), so that
//! drift is found by comparing texts.

use super::{Major, Spec};

/// One server setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Its name in PostgreSQL.
    pub name: &'static str,
    /// Its value as PostgreSQL shows it.
    pub value: String,
}

/// Sessions that are Stead's own: administration, the gateway's look-ups, the three kept for superusers.
const OWN_SESSIONS: u32 = 8;

fn mib(amount: u64) -> String {
    if amount >= 1024 && amount.is_multiple_of(1024) {
        format!("{}GB", amount / 1024)
    } else {
        format!("{amount}MB")
    }
}

/// Every setting that the spec owns, for its engine; paths and libraries are the driver's to add.
///
/// `wal_level` is `logical` from the first start, because changing it later takes a restart.
#[must_use]
pub fn settings(spec: &Spec) -> Vec<Setting> {
    let limits = spec.size.limits();
    let mut all = vec![
        ("shared_buffers", mib(limits.shared_buffers_mib)),
        ("effective_cache_size", mib(limits.cache_mib)),
        ("work_mem", mib(limits.work_mem_mib)),
        ("maintenance_work_mem", mib(limits.maintenance_mem_mib)),
        ("max_connections", (limits.sessions + OWN_SESSIONS).to_string()),
        ("superuser_reserved_connections", "3".into()),
        ("max_wal_size", mib(limits.wal_mib)),
        ("min_wal_size", mib((limits.wal_mib / 8).max(32))),
        ("max_slot_wal_keep_size", mib(limits.wal_mib)),
        ("temp_file_limit", mib(limits.disk_mib / 4)),
        ("wal_level", "logical".into()),
        ("max_wal_senders", "8".into()),
        ("max_replication_slots", "8".into()),
        ("max_prepared_transactions", "16".into()),
        ("max_worker_processes", (limits.parallel_workers + 6).to_string()),
        ("max_parallel_workers", limits.parallel_workers.to_string()),
        ("max_parallel_workers_per_gather", (limits.parallel_workers / 2).to_string()),
        ("autovacuum", "on".into()),
        ("autovacuum_max_workers", limits.autovacuum_workers.to_string()),
        ("fsync", "on".into()),
        ("full_page_writes", "on".into()),
        ("synchronous_commit", "on".into()),
        ("password_encryption", "scram-sha-256".into()),
        ("listen_addresses", String::new()),
        // A statement of a client that is gone ends soon, also when no cancel reached it.
        ("client_connection_check_interval", "10s".into()),
        ("jit", "off".into()),
        ("track_io_timing", "on".into()),
        ("log_destination", "jsonlog".into()),
        ("logging_collector", "on".into()),
        ("log_checkpoints", "on".into()),
        ("log_lock_waits", "on".into()),
        ("log_min_duration_statement", "1s".into()),
        ("log_parameter_max_length", "0".into()),
        ("log_parameter_max_length_on_error", "0".into()),
        ("log_timezone", "UTC".into()),
        ("TimeZone", "UTC".into()),
        ("recovery_init_sync_method", "syncfs".into()),
    ];
    if spec.engine >= Major::new(17) {
        all.push(("allow_alter_system", "off".into()));
    }
    if spec.engine >= Major::new(18) {
        all.push(("io_method", "sync".into()));
        all.push(("idle_replication_slot_timeout", "0".into()));
    }
    all.into_iter().map(|(name, value)| Setting { name, value }).collect()
}
