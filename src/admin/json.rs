//! Messages of `envoy.admin.v3` as the JSON that Envoy prints: names as in the proto files, indented by one space.

use http::StatusCode;
use prost::Message;
use prost_reflect::{DynamicMessage, ReflectMessage, SerializeOptions};
use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};

use super::endpoint::Answer;
use crate::{
    net::Address,
    proto::{
        self, Any,
        core::{
            self, Pipe, SocketAddress, envoy_internal_address::AddressNameSpecifier, socket_address::PortSpecifier,
        },
    },
};

/// What happens to fields that have their default value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Defaults {
    /// They are left out.
    Skip,
    /// They are printed.
    Print,
}

/// Answers with `message`.
pub(super) fn answer<M: prost::Name>(message: &M, defaults: Defaults) -> Answer {
    print(&dynamic(message), defaults)
}

/// `message` as one that can be walked by its descriptor.
pub(super) fn dynamic<M: prost::Name>(message: &M) -> DynamicMessage {
    let descriptor = proto::pool().get_message_by_name(&M::full_name()).expect("invariant: the pool has all messages");
    let mut dynamic = DynamicMessage::new(descriptor);
    dynamic.transcode_from(message).expect("invariant: the descriptor is of the very same message");
    dynamic
}

/// The message in an `Any`, if its type is known.
pub(super) fn unpack(any: &Any) -> Option<DynamicMessage> {
    let name = any.type_url.rsplit('/').next()?;
    DynamicMessage::decode(proto::pool().get_message_by_name(name)?, &*any.value).ok()
}

/// Puts a message into an `Any`.
pub(super) fn pack(message: &DynamicMessage) -> Any {
    let type_url = format!("type.googleapis.com/{}", message.descriptor().full_name());
    Any { type_url, value: message.encode_to_vec() }
}

/// Answers with a message taken apart by its descriptor. One that holds an `Any` of unknown type cannot be printed.
pub(super) fn print(message: &DynamicMessage, defaults: Defaults) -> Answer {
    let options = SerializeOptions::new().use_proto_field_name(true).skip_default_fields(defaults == Defaults::Skip);
    let mut text = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut text, PrettyFormatter::with_indent(b" "));
    match message.serialize_with_options(&mut serializer, &options) {
        Ok(()) => {
            text.push(b'\n');
            Answer::json(String::from_utf8_lossy(&text).into_owned())
        }
        Err(error) => {
            let why = format!("cannot be printed as JSON: {error}\n");
            Answer::text(why).with_status(StatusCode::INTERNAL_SERVER_ERROR)
        }
    }
}

/// Answers with a JSON value, indented in the same way.
pub(super) fn pretty(value: &serde_json::Value) -> Answer {
    let mut text = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut text, PrettyFormatter::with_indent(b" "));
    value.serialize(&mut serializer).expect("invariant: a value can be written to memory");
    text.push(b'\n');
    Answer::json(String::from_utf8_lossy(&text).into_owned())
}

/// The wire form of an address.
pub(super) fn address(address: &Address) -> core::Address {
    let address = match address {
        Address::Ip(address) => core::address::Address::SocketAddress(SocketAddress {
            address: address.ip().to_string(),
            port_specifier: Some(PortSpecifier::PortValue(address.port().into())),
            ..SocketAddress::default()
        }),
        Address::Pipe(path) => {
            core::address::Address::Pipe(Pipe { path: path.to_string_lossy().into_owned(), ..Pipe::default() })
        }
        Address::Internal { listener, endpoint_id } => {
            core::address::Address::EnvoyInternalAddress(core::EnvoyInternalAddress {
                endpoint_id: endpoint_id.to_string(),
                address_name_specifier: Some(AddressNameSpecifier::ServerListenerName(listener.to_string())),
            })
        }
    };
    core::Address { address: Some(address) }
}
