//! DNS inside a worker: names that it may reach have an address, and no others.

use std::collections::HashSet;
use std::sync::Arc;

use simple_dns::rdata::{A, RData};
use simple_dns::{CLASS, Packet, PacketFlag, QCLASS, QTYPE, RCODE, ResourceRecord, TYPE};
use tokio::net::UdpSocket;

use crate::engine::Engine;
use crate::names::{self, Names};
use crate::route::Egress;
use crate::worker::Worker;

/// How long an address holds, seconds: it never changes, but a worker may outlive its route's.
const TTL: u32 = 60;
/// Longest question, bytes.
const LONGEST: usize = 1232;
/// Names that were refused and are told in the log, a worker.
const TOLD: usize = 50;

/// Answers a worker's questions until it has ended.
pub(crate) async fn serve(_engine: Arc<Engine>, worker: Arc<Worker>, socket: UdpSocket) {
    let mut buffer = [0; LONGEST];
    let mut told = HashSet::new();
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut buffer) => received,
            () = worker.ended() => return,
        };
        let Ok((length, from)) = received else { continue };
        let egress = &worker.edition.version.egress;
        let Some((answer, refused)) =
            buffer.get(..length).and_then(|question| answer(question, egress, &worker.names))
        else {
            continue;
        };
        if let Some(name) = refused
            && told.len() < TOLD
            && told.insert(name.clone())
        {
            let message = format!("`{name}` was asked for, which the function's `egress` does not name");
            worker.output.say("warning", message);
        }
        // Whoever asks and does not listen asks again.
        let _ = socket.send_to(&answer, from).await;
    }
}

/// The answer, and the name where it was refused; `None` to what is no question.
fn answer(question: &[u8], egress: &[Egress], names: &Names) -> Option<(Vec<u8>, Option<String>)> {
    let packet = Packet::parse(question).ok().filter(|packet| !packet.has_flags(PacketFlag::RESPONSE))?;
    let [asked] = packet.questions.as_slice() else { return None };
    let (asked, recursion) = (asked.clone(), packet.has_flags(PacketFlag::RECURSION_DESIRED));
    let name = asked.qname.to_string().to_ascii_lowercase();
    let mut reply = Packet::new_reply(packet.id());
    reply.set_flags(PacketFlag::AUTHORITATIVE_ANSWER | PacketFlag::RECURSION_AVAILABLE);
    if recursion {
        reply.set_flags(PacketFlag::RECURSION_DESIRED);
    }
    let mut refused = None;
    let wants_address = matches!(asked.qtype, QTYPE::TYPE(TYPE::A) | QTYPE::ANY)
        && matches!(asked.qclass, QCLASS::CLASS(CLASS::IN) | QCLASS::ANY);
    if !names::may_reach(egress, &name, None) {
        *reply.rcode_mut() = RCODE::NameError;
        refused = Some(name);
    } else if wants_address {
        match names.address(&name) {
            Some(address) => {
                let address = RData::A(A { address: address.into() });
                reply.answers.push(ResourceRecord::new(asked.qname.clone(), CLASS::IN, TTL, address));
            }
            None => *reply.rcode_mut() = RCODE::ServerFailure,
        }
    }
    reply.questions.push(asked);
    Some((reply.build_bytes_vec().ok()?, refused))
}

#[cfg(test)]
mod tests {
    use simple_dns::{Name, Question};

    use super::*;

    fn ask(name: &str, kind: TYPE) -> (RCODE, Vec<u32>) {
        let mut packet = Packet::new_query(7);
        let question =
            Question::new(Name::new(name).unwrap(), QTYPE::TYPE(kind), QCLASS::CLASS(CLASS::IN), false);
        packet.questions.push(question);
        let egress = [Egress { name: "api.example.com".to_owned(), port: 443 }];
        let (bytes, _) = answer(&packet.build_bytes_vec().unwrap(), &egress, &Names::default()).unwrap();
        let reply = Packet::parse(&bytes).unwrap();
        assert_eq!((reply.id(), reply.questions.len()), (7, 1));
        let addresses = reply.answers.iter().filter_map(|record| match &record.rdata {
            RData::A(a) => Some(a.address),
            _ => None,
        });
        (reply.rcode(), addresses.collect())
    }

    #[test]
    fn names_that_may_be_reached_have_an_address_and_others_do_not_exist() {
        let (code, addresses) = ask("API.example.com", TYPE::A);
        assert_eq!((code, addresses.len()), (RCODE::NoError, 1));
        assert_eq!(addresses[0] >> 17, u32::from_be_bytes([198, 18, 0, 0]) >> 17);
        assert_eq!(ask("api.example.com", TYPE::AAAA), (RCODE::NoError, vec![]));
        assert_eq!(ask("example.com", TYPE::A), (RCODE::NameError, vec![]));
    }

    #[test]
    fn what_is_no_question_is_not_answered() {
        let names = Names::default();
        assert_eq!(answer(b"", &[], &names), None);
        assert_eq!(answer(&[0xff; 40], &[], &names), None);
    }
}
