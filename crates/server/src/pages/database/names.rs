//! Names as SQL writes them.

/// Words that are no names unless they are quoted (PostgreSQL 18, appendix C, "reserved" of every sort).
const RESERVED: &str = " all analyse analyze and any array as asc asymmetric authorization between bigint binary bit \
    boolean both case cast char character check coalesce collate collation column concurrently constraint create cross \
    current_catalog current_date current_role current_schema current_time current_timestamp current_user dec decimal \
    default deferrable desc distinct do else end except exists extract false fetch float for foreign freeze from full \
    grant greatest group grouping having ilike in initially inner inout int integer intersect interval into is isnull \
    join json json_array json_arrayagg json_exists json_object json_objectagg json_query json_scalar json_serialize \
    json_table json_value lateral leading least left like limit localtime localtimestamp merge_action national natural \
    nchar none normalize not notnull null nullif numeric offset on only or order out outer overlaps overlay placing \
    position precision primary real references returning right row select session_user setof similar smallint some \
    substring symmetric system_user table tablesample then time timestamp to trailing treat trim true union unique user \
    using values varchar variadic verbose when where window with xmlattributes xmlconcat xmlelement xmlexists xmlforest \
    xmlnamespaces xmlparse xmlpi xmlroot xmlserialize xmltable ";

/// A name as a statement has to write it: quoted where it would be another one, or none, without.
pub(super) fn identifier(name: &str) -> String {
    let first = |c: char| c.is_ascii_lowercase() || c == '_';
    let plain = name.starts_with(first)
        && name.chars().all(|c| first(c) || c.is_ascii_digit())
        && !RESERVED.contains(&format!(" {name} "));
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

#[cfg(test)]
mod tests {
    use super::identifier;

    #[test]
    fn only_what_needs_it_is_quoted() {
        let names =
            ["flights", "_x1", "Flights", "1st", "two words", "user", "order", "say\"so", "größe", ""];
        let written = names.map(identifier);
        assert_eq!(
            written,
            [
                "flights",
                "_x1",
                "\"Flights\"",
                "\"1st\"",
                "\"two words\"",
                "\"user\"",
                "\"order\"",
                "\"say\"\"so\"",
                "\"größe\"",
                "\"\""
            ]
        );
    }
}
