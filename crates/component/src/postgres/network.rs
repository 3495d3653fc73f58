//! Networks of an allow-list. A text that nearly is one is refused with the one that was meant: an entry
//! that silently meant more, or less, than it says would be a hole or a lock-out.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use crate::manifest::{Fault, shown};

const LIKE: &str = "write it like 10.0.0.0/8 or 2001:db8::/32";

/// Parses `10.0.0.0/8`.
pub(crate) fn parse(text: &str) -> Result<IpNet, Fault> {
    let fault =
        |why: &str, help: String| Fault::new(format!("\"{}\" {why}", shown(text)), "not a network", help);
    let trimmed = text.trim();
    let Some((address, prefix)) = trimmed.split_once('/') else { return Err(no_slash(text)) };
    let Ok(ip) = address.trim().parse::<IpAddr>() else {
        return Err(fault("is not a network", LIKE.into()));
    };
    let longest = if ip.is_ipv4() { 32 } else { 128 };
    if let (IpAddr::V4(_), Ok(mask)) = (ip, prefix.trim().parse::<Ipv4Addr>()) {
        let help = ipnet::ipv4_mask_to_prefix(mask)
            .ok()
            .and_then(|prefix| IpNet::new(ip, prefix).ok())
            .map_or_else(|| LIKE.to_owned(), |net| format!("did you mean {}?", net.trunc()));
        return Err(fault("has a mask where the length of the prefix goes", help));
    }
    let digits = !prefix.is_empty() && prefix.bytes().all(|b| b.is_ascii_digit());
    let length = prefix.parse::<u8>().ok().filter(|length| digits && *length <= longest);
    let Some(net) = length.and_then(|length| IpNet::new(ip, length).ok()) else {
        let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
        return Err(fault(
            "has no such prefix",
            format!("the prefix of an {family} network is 0 to {longest}"),
        ));
    };
    let exact = net.trunc();
    if exact != net {
        return Err(fault(
            "has bits set beyond the prefix",
            format!("did you mean {exact}, or {ip}/{longest}?"),
        ));
    }
    if let Some(inner) = mapped(&net) {
        return Err(fault("is an IPv4 network in the clothes of IPv6", format!("write {inner}")));
    }
    if trimmed != text
        || exact.to_string().len() > text.len()
        || prefix.len() != net.prefix_len().to_string().len()
    {
        return Err(fault("is not written the usual way", format!("write {exact}")));
    }
    Ok(exact)
}

fn no_slash(text: &str) -> Fault {
    let trimmed = text.trim();
    let fault =
        |why: &str, help: String| Fault::new(format!("\"{}\" {why}", shown(text)), "not a network", help);
    if let Ok(ip) = trimmed.parse::<IpAddr>() {
        let length = if ip.is_ipv4() { 32 } else { 128 };
        return fault("is an address, not a network", format!("write {ip}/{length} for this one address"));
    }
    match trimmed.to_ascii_lowercase().as_str() {
        "*" | "any" | "all" | "everyone" | "public" | "internet" => {
            fault("is not a network", "0.0.0.0/0 and ::/0 together are everyone".into())
        }
        "localhost" | "loopback" => fault("is a name, not a network", "write 127.0.0.0/8 and ::1/128".into()),
        _ => fault("is not a network", LIKE.into()),
    }
}

/// The IPv4 network that an IPv4-mapped one (`::ffff:10.0.0.0/104`) stands for. The front door sees plain
/// IPv4 addresses, so that a mapped one would match nobody.
fn mapped(net: &IpNet) -> Option<IpNet> {
    let IpNet::V6(net) = net else { return None };
    let inner = net.addr().to_ipv4_mapped()?;
    IpNet::new(IpAddr::V4(inner), net.prefix_len().checked_sub(96)?).ok()
}
