-- Where on its host a component lives: counts its moves.
alter table components add column place int4 not null default 0;

alter table operations drop constraint operations_kind_check;
alter table operations add constraint operations_kind_check check (kind in ('apply', 'delete', 'rotate', 'move'));
