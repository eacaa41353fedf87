//! Both halves in one process, and halves of other versions.

use std::{net::TcpListener, sync::Arc};

use prost::Message;

use super::{predecessor::News, *};
use crate::{
    net::with_causes,
    proto::handoff::{
        Hello, PredecessorMessage, State, SuccessorMessage, predecessor_message, successor_message::Message as Said,
    },
    server::sockets::{Inherited, Listening},
    stats::{Counted, Registry},
    sys::socket::ListenSocket,
};

fn said(message: Said) -> Vec<u8> {
    SuccessorMessage { message: Some(message) }.encode_to_vec()
}

fn channels() -> (Channel, Channel) {
    let (ours, theirs) = Channel::pair().unwrap();
    (ours, Channel::adopt(theirs).unwrap())
}

#[tokio::test]
async fn sockets_and_state_arrive() {
    let (old, new) = channels();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = ListenSocket::Tcp(listener);
    // More than one message carries.
    let listening = Listening::of(std::iter::repeat_n(("main/127.0.0.1_0", &socket), 450)).unwrap();
    let old = async {
        let successor = Successor::greeted(old).await.unwrap();
        successor.give(&listening).await.unwrap();
        assert!(matches!(
            receive::<SuccessorMessage>(successor.channel()).await.unwrap().0.message,
            Some(Said::Ready(_))
        ));
        successor.commit(vec![7; 300_000]).await.unwrap();
        successor
    };
    let new = async {
        let mut inherited = Inherited::default();
        let predecessor = Predecessor::greeted(new, &mut inherited).await.unwrap();
        assert_eq!(inherited.count(), 450);
        assert_eq!(predecessor.ready().await.unwrap(), vec![7; 300_000]);
        predecessor.serving().await.unwrap();
        predecessor
    };
    let (successor, predecessor) = tokio::join!(old, new);
    successor.tell_counted(vec![1]).await.unwrap();
    assert!(matches!(predecessor.news().await, Some(News::Counted(state)) if state == [1]));
    drop(successor);
    assert!(predecessor.news().await.is_none());
}

#[tokio::test]
async fn what_is_counted_reaches_the_serving_process_past_one_that_has_ended() {
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let registry = Registry::new(0);
            let counter = registry.scope("http").counter("requests");
            // Three generations: the first is drained slowly, the second ends at once.
            let (first, second) = (conversation().await, conversation().await);
            let forebears_of_second = Forebears::new(Registry::new(0));
            let counted = Counted { name: "http.requests".into(), value: 3, unlisted: false };
            first.0.tell_counted(tally(vec![counted.clone()])).await.unwrap();
            forebears_of_second.follow(first.1);
            let forebears_of_third = Forebears::new(Arc::clone(&registry));
            forebears_of_third.follow(second.1);
            second.0.bequeath(&forebears_of_second.leave()).await.unwrap();
            drop((second.0, forebears_of_second));
            first.0.tell_counted(tally(vec![counted])).await.unwrap();
            while counter.value() < 6 {
                tokio::task::yield_now().await;
            }
        })
        .await;
}

/// Both ends of a conversation between an old and a new process.
async fn conversation() -> (Successor, Predecessor) {
    let (old, new) = channels();
    let listening = Listening::default();
    let old = async {
        let successor = Successor::greeted(old).await.unwrap();
        successor.give(&listening).await.unwrap();
        successor
    };
    let mut inherited = Inherited::default();
    let (successor, predecessor) = tokio::join!(old, Predecessor::greeted(new, &mut inherited));
    (successor, predecessor.unwrap())
}

#[tokio::test]
async fn a_version_that_is_not_understood_is_refused_with_a_reason() {
    let (old, new) = channels();
    let hello = Hello { version: VERSION + 1, software: "9.9.9".to_owned(), pid: 1 };
    new.send(&said(Said::Hello(hello)), &[]).await.unwrap();
    let error = Successor::greeted(old).await.unwrap_err();
    assert_eq!(error.to_string(), "the new process (9.9.9) speaks version 2 of the hand-off, this one version 1");
    let (message, _) = receive::<PredecessorMessage>(&new).await.unwrap();
    let Some(predecessor_message::Message::Refused(refused)) = message.message else { panic!("{message:?}") };
    assert_eq!(refused.reason, error.to_string());
}

/// What a later version adds, an earlier one does not see.
#[tokio::test]
async fn fields_and_messages_of_later_versions_are_passed_over() {
    // Field 100 of each message, a string.
    let addition = [0xa2, 0x06, 0x01, b'x'];
    let (old, new) = channels();
    let hello = Hello { version: VERSION, software: String::new(), pid: 1 };
    let mut message = said(Said::Hello(hello));
    message.extend(addition);
    new.send(&message, &[]).await.unwrap();
    let successor = Successor::greeted(old).await.unwrap();
    assert_eq!(successor.pid, 1);
    let mut state = State { generation: 4, ..State::default() }.encode_to_vec();
    state.extend(addition);
    assert_eq!(State::decode(state.as_slice()).unwrap().generation, 4);
    assert_eq!(Succession::after(&State::decode(state.as_slice()).unwrap()).generation, 5);
}

#[tokio::test]
async fn a_process_that_dies_is_noticed() {
    let (old, new) = channels();
    drop(new);
    assert!(matches!(Successor::greeted(old).await.unwrap_err(), HandOffError::Ended));
}

#[tokio::test(start_paused = true)]
async fn a_program_that_never_gets_ready_is_given_up() {
    // It reads until we hang up, and says nothing.
    let error = start(&Program::of("/bin/cat"), &Listening::default()).await.unwrap_err();
    assert_eq!(error.to_string(), "the new process was not ready within 60 s");
    let error = start(&Program::of("/nowhere/portreeve"), &Listening::default()).await.unwrap_err();
    assert_eq!(with_causes(&error), "cannot start /nowhere/portreeve: No such file or directory (os error 2)");
}
