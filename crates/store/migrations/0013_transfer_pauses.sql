-- Transfers can be paused.
alter table operations drop constraint operations_kind_check;
alter table operations add constraint operations_kind_check
    check (kind in ('apply', 'delete', 'rotate', 'move', 'clone', 'swap', 'rollback', 'promote', 'secret', 'resync',
                    'pause', 'resume'));
