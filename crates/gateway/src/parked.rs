//! A session that came to rest because its server is switched: it leaves the server and comes to the next.

use std::io::ErrorKind::TimedOut;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::backend::Backend;
use crate::cancel::Target;
use crate::carry::{self, Carried, Holdings, Names};
use crate::conn::{Conn, Inside};
use crate::door::Seat;
use crate::orders::{Order, Standing};
use crate::refusal::{Ending, Refusal};
use crate::relay::Parked;
use crate::session::{Copying, Login, Visit};
use crate::wire::Frames;

/// A session that takes longer to say what it holds ends: its stream is in no known state then.
const ASK: Duration = Duration::from_secs(5);

/// How the session goes on: with whom, and what cancels there; or how it ended, for the log.
type Further = Result<(Copying, Option<Target>), (&'static str, Option<String>)>;

/// What a session said when it was asked. It is true for as long as the client says nothing more and no other
/// names of settings are known.
pub(crate) struct Said {
    /// Bytes of the client's until then.
    at: u64,
    /// The settings that it was asked for besides those that the client named.
    names: Names,
    holdings: Holdings,
}

impl Visit {
    /// From rest to the next statement, which may be at another server.
    pub(crate) async fn stand_still(&mut self, relay: Copying, seat: &mut Seat, login: &Login) -> Further {
        let (parked, server) = relay.park();
        let (mut server, mut told) = (Frames::up_to(server, carry::LONGEST_ROW), BytesMut::new());
        let answer = loop {
            let order = seat.order();
            let asked = timeout(ASK, self.ask(&mut server, &mut told, &parked, order, login)).await;
            let answer = match asked.unwrap_or_else(|_| Err(TimedOut.into())) {
                Ok(answer) => answer,
                Err(error) => {
                    tracing::debug!(%error, "a session's server failed while it was asked what it holds");
                    let why = "the server did not say what it holds";
                    return self.part(parked, Ending::Stranded(why)).await;
                }
            };
            if order != Order::Ask {
                break answer;
            }
            // What could not be said is asked for again, as is what was said before the order to rest came.
            if !matches!(answer.holdings, Holdings::Holds(carry::NOT_SAID)) {
                self.said = Some(Box::new(answer));
            }
            if seat.stand(Standing::Asked).is_ok() {
                let (server, rest) = server.into_parts();
                told.unsplit(rest);
                return Ok((parked.attach(server, told), None));
            }
        };
        let (server, rest) = server.into_parts();
        told.unsplit(rest);
        let relay = parked.attach(server, told);
        // A refusal here is an order that came meanwhile; it is looked at next.
        let _ = seat.stand(Standing::Resting);
        let because = loop {
            match seat.order() {
                Order::Go | Order::Ask => match seat.stand(Standing::Busy) {
                    Ok(()) => return Ok((relay, None)),
                    Err(_) => continue,
                },
                Order::Park { because } => break because,
                Order::End(ending) => return Err(self.send_off(relay, ending, None).await),
                Order::Rest => std::future::poll_fn(|cx| seat.ear.poll(cx)).await,
            }
        };
        seat.retarget(None);
        let (parked, server) = relay.park();
        say_goodbye(server).await;
        match answer.holdings {
            Holdings::Holds(what) => {
                let _ = seat.stand(Standing::Leaving);
                self.part(parked, Ending::Holds { because, what }).await
            }
            Holdings::Carried(carried) => {
                let _ = seat.stand(Standing::Parked);
                self.wait(parked, carried, seat, login).await
            }
        }
    }

    /// What it holds. What the functions of its database set is asked for before the hold, and in it what is
    /// new since. A function that is made while sessions come to rest, and is used by one that rests later than
    /// the one that looked, is not seen.
    async fn ask(
        &mut self,
        server: &mut Frames<UnixStream>,
        told: &mut BytesMut,
        parked: &Parked<Inside>,
        order: Order,
        login: &Login,
    ) -> std::io::Result<Said> {
        let at = parked.amounts().0;
        let not_said = || Said { at, names: Names::default(), holdings: Holdings::Holds(carry::NOT_SAID) };
        let database = login.startup.database();
        let known = self.door.functions();
        // Where somebody else's session takes its time over the same question, this one cannot be asked.
        let Ok(mut known) = timeout(ASK / 2, known.lock()).await else { return Ok(not_said()) };
        let at_rest = matches!(order, Order::Rest | Order::Park { .. });
        let before = known.get(database);
        let names = match before {
            Some(before) if before.at_rest || !at_rest => before.names.clone(),
            _ => {
                let found = carry::settings_of_functions(server, told, before, at_rest).await?;
                let Some(found) = found else { return Ok(not_said()) };
                let names = found.names.clone();
                known.insert(database.to_vec(), found);
                names
            }
        };
        drop(known);
        let before = self.said.take();
        if let Some(before) = before.filter(|before| before.at == at && Arc::ptr_eq(&before.names, &names)) {
            return Ok(*before);
        }
        let holdings = carry::ask(server, told, &parked.conversation, &names).await?;
        Ok(Said { at, names, holdings })
    }

    /// Until the client says something and there is a server to hear it.
    async fn wait(
        &mut self,
        mut parked: Parked<Inside>,
        carried: Carried,
        seat: &mut Seat,
        login: &Login,
    ) -> Further {
        let mut spoken = false;
        loop {
            match seat.order() {
                Order::End(ending) => return self.part(parked, ending).await,
                // Nobody waits yet where the others are asked.
                Order::Go | Order::Ask if spoken => {}
                _ => {
                    tokio::select! {
                        () = std::future::poll_fn(|cx| seat.ear.poll(cx)) => {}
                        heard = parked.hear(), if !spoken => match heard {
                            Ok(true) => spoken = true,
                            Ok(false) => return Err(("closed_by_client", None)),
                            Err(error) => return Err(("connection_lost", Some(error.to_string()))),
                        },
                    }
                    continue;
                }
            }
            // In its turn, as whoever signs in; by then there may be another order.
            let sit = || match seat.stand(Standing::Busy) {
                Ok(()) => Ok(true),
                Err(Order::End(ending)) => Err(Refusal::Ended(ending)),
                Err(_) => Ok(false),
            };
            let back = || {
                let _ = seat.stand(Standing::Parked);
            };
            let again = timeout(self.context.limits.sign_in, self.log_in(login, sit, back)).await;
            match again.unwrap_or(Err(Refusal::Down)) {
                Ok((false, ..)) => {}
                Ok((true, backend, folder)) => {
                    return self.arrive(parked, carried, backend, &folder, seat).await;
                }
                Err(Refusal::Ended(ending)) => return self.part(parked, ending).await,
                Err(refusal) => return self.strand(parked, &refusal).await,
            }
        }
    }

    /// Signed in to a server again: what the session had is put in place there.
    async fn arrive(
        &mut self,
        parked: Parked<Inside>,
        carried: Carried,
        backend: Backend,
        folder: &std::path::Path,
        seat: &Seat,
    ) -> Further {
        let Backend { stream, greeting, key, .. } = backend;
        let target = key.map(|key| Target::new(folder, key));
        // What is put in place may wait for a lock, and can be cancelled like any statement.
        seat.retarget(target.clone());
        let put =
            timeout(self.context.limits.sign_in, carried.put(stream, parked.conversation.unnamed())).await;
        let (server, told, said) = match put.unwrap_or(Err(Refusal::Down)) {
            Ok(done) => done,
            Err(refusal) => return self.strand(parked, &refusal).await,
        };
        self.record.moves += 1;
        crate::fail_point!("gateway::arrived");
        let mut read = in_force(greeting, told);
        read.unsplit(said);
        Ok((parked.attach(server, read), target))
    }

    /// There is no way back to a server.
    async fn strand(&mut self, parked: Parked<Inside>, why: &Refusal) -> Further {
        tracing::warn!(server = self.record.server, %why, "a session could not be brought to its server again");
        let why = match why {
            Refusal::SignIn(_) => "its password has changed",
            Refusal::Server { .. } => "the server does not take it as it was",
            Refusal::TooMany { .. } | Refusal::ServerFull => "the server is full",
            _ => "the server is not up",
        };
        self.part(parked, Ending::Stranded(why)).await
    }

    async fn part(&mut self, parked: Parked<Inside>, ending: Ending) -> Further {
        self.count(parked.amounts());
        Conn::In(parked.client).close_with(&ending.message()).await;
        Err((ending.outcome(), Some(ending.to_string())))
    }
}

/// As a client that leaves, so that the server's log has no lost connection.
async fn say_goodbye(mut server: UnixStream) {
    let _ = crate::wire::send(&mut server, b"X\0\0\0\x04").await;
}

/// What the client has to be told of settings: each that the server reported, as it is in the end.
fn in_force(mut greeting: BytesMut, told: Vec<Bytes>) -> BytesMut {
    let mut reported = std::collections::BTreeMap::new();
    let mut put = |message: Bytes| {
        if message.first() == Some(&b'S') && message.len() > 5 {
            let name = message[5..].split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
            reported.insert(name, message);
        }
    };
    while let Ok(Some(frame)) = crate::wire::take_frame(&mut greeting, crate::wire::LONGEST) {
        put(frame.raw);
    }
    told.into_iter().for_each(put);
    let mut messages = BytesMut::new();
    reported.values().for_each(|message| messages.put_slice(message));
    messages
}
