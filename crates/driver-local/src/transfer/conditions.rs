//! What a person should know of a transfer.

use component::transfer::{Behind, Progress, TableState};
use component::{Condition, ConditionKind};

/// What a person should know of a transfer that goes on otherwise.
pub(crate) fn conditions(progress: &Progress) -> Vec<Condition> {
    let told = |message| Condition { kind: ConditionKind::TransferStopped, message };
    let of_table = |message| Condition { kind: ConditionKind::TableStopped, message };
    let stopped = progress.tables.iter().filter(|table| table.state == TableState::Stopped);
    let mut conditions: Vec<_> = stopped
        .filter_map(|table| Some(of_table(format!("{} stands still: {}", table.name, table.why.as_ref()?))))
        .take(MOST_TOLD)
        .collect();
    conditions.extend(progress.behind.and_then(little_room).map(told));
    if let Some(why) = progress.trouble.as_ref().filter(|_| !progress.stopped) {
        conditions.push(told(format!("nothing is copied: {why}")));
    }
    conditions
}

/// The alarm before the stop: a server keeps much for a transfer that stands still, and may soon keep no more.
fn little_room(behind: Behind) -> Option<String> {
    let (kept, room) = (behind.kept_bytes, behind.room_bytes?);
    (kept > room.saturating_mul(3)).then(|| {
        format!(
            "the server keeps {} MiB of log for it and has room for {} more; then it lets go, and everything has to be copied \
             anew. Have it go on: see why it does not above, `stead resume` one that is paused",
            kept / MIB,
            room / MIB
        )
    })
}

const MIB: u64 = 1024 * 1024;

/// Tables that are told of one by one.
const MOST_TOLD: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_comes_before_the_stop() {
        let said = |kept_mib: u64, room_mib: Option<u64>| {
            let behind = Behind {
                kept_bytes: kept_mib * MIB,
                room_bytes: room_mib.map(|room| room * MIB),
                ..Behind::default()
            };
            let conditions = conditions(&Progress { behind: Some(behind), ..Progress::default() });
            conditions.into_iter().map(|condition| condition.message).next()
        };
        assert_eq!((said(100, None), said(0, Some(0)), said(300, Some(100))), (None, None, None));
        assert!(
            said(301, Some(100))
                .is_some_and(|text| text.contains("301 MiB of log for it and has room for 100"))
        );
    }
}
