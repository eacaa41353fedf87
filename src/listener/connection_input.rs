//! What a `filter_chain_matcher` looks at: addresses and ports of a connection, and what listener filters have found out about it.

use std::{borrow::Cow, env};

use prost::Name;

use super::filter_chain_match::Candidate;
use crate::{
    config::Field,
    matcher::Input,
    net::Address,
    proto::{
        environment_variable,
        network_inputs::{
            ApplicationProtocolInput, DestinationIpInput, DestinationPortInput, DirectSourceIpInput, ServerNameInput,
            SourceIpInput, SourcePortInput, SourceTypeInput, TransportProtocolInput,
        },
        xds_core::TypedExtensionConfig,
    },
    runtime::Runtime,
};

/// An input of a tree that chooses a filter chain.
#[derive(Debug)]
pub(super) enum ConnectionInput {
    DestinationIp,
    DestinationPort,
    SourceIp,
    SourcePort,
    DirectSourceIp,
    /// `local`, or nothing.
    SourceType,
    ServerName,
    TransportProtocol,
    /// All that are offered, as `'h2','http/1.1'`.
    ApplicationProtocol,
    /// The value that the variable had when the configuration was loaded.
    Environment(Option<String>),
}

/// What the inputs are read from.
pub(super) struct ConnectionData<'c> {
    pub(super) candidate: &'c Candidate<'c>,
    pub(super) runtime: &'c Runtime,
}

impl Input for ConnectionInput {
    type Data<'c> = ConnectionData<'c>;

    fn from_proto(proto: &TypedExtensionConfig, field: Field<'_>) -> Option<ConnectionInput> {
        let TypedExtensionConfig { name: _name, typed_config } = proto;
        let any = field.required("typed_config", typed_config)?;
        let field = field.key("typed_config");
        let found = any.type_url.rsplit('/').next().unwrap_or_default();
        if found == environment_variable::Config::full_name() {
            let environment_variable::Config { name } = field.unpack(any)?;
            return Some(ConnectionInput::Environment(env::var(name).ok().filter(|value| !value.is_empty())));
        }
        let plain = [
            (DestinationIpInput::full_name(), ConnectionInput::DestinationIp),
            (DestinationPortInput::full_name(), ConnectionInput::DestinationPort),
            (SourceIpInput::full_name(), ConnectionInput::SourceIp),
            (SourcePortInput::full_name(), ConnectionInput::SourcePort),
            (DirectSourceIpInput::full_name(), ConnectionInput::DirectSourceIp),
            (SourceTypeInput::full_name(), ConnectionInput::SourceType),
            (ServerNameInput::full_name(), ConnectionInput::ServerName),
            (TransportProtocolInput::full_name(), ConnectionInput::TransportProtocol),
            (ApplicationProtocolInput::full_name(), ConnectionInput::ApplicationProtocol),
        ];
        let input = plain.into_iter().find(|(name, _)| name == found).map(|(_, input)| input);
        if input.is_none() {
            field.error(format!(
                "{found}: nothing that Portreeve knows of a connection when it chooses its filter chain"
            ));
        }
        input
    }

    fn read<'d>(&'d self, data: &'d ConnectionData<'_>) -> Option<Cow<'d, [u8]>> {
        let Candidate { local, remote, direct_remote, server_name, transport_protocol, application_protocols } =
            data.candidate;
        let text = |text: String| Some(Cow::Owned(text.into_bytes()));
        let ip = |address: &Address| text(address.ip()?.to_string());
        let port = |address: &Address| text(address.port()?.to_string());
        match self {
            ConnectionInput::DestinationIp => ip(local),
            ConnectionInput::DestinationPort => port(local),
            ConnectionInput::SourceIp => ip(remote),
            ConnectionInput::SourcePort => port(remote),
            ConnectionInput::DirectSourceIp => ip(direct_remote),
            ConnectionInput::SourceType => data.candidate.is_local().then_some(Cow::Borrowed(b"local")),
            ConnectionInput::ServerName => server_name.map(|name| Cow::Borrowed(name.as_bytes())),
            ConnectionInput::TransportProtocol => {
                (!transport_protocol.is_empty()).then_some(Cow::Borrowed(transport_protocol.as_bytes()))
            }
            ConnectionInput::ApplicationProtocol => {
                let quoted = application_protocols.iter().map(|name| [b"'", name.as_slice(), b"'"].concat());
                let quoted: Vec<_> = quoted.collect();
                (!quoted.is_empty()).then(|| Cow::Owned(quoted.join(&b","[..])))
            }
            ConnectionInput::Environment(value) => value.as_ref().map(|value| Cow::Borrowed(value.as_bytes())),
        }
    }

    fn runtime<'d>(data: &'d ConnectionData<'_>) -> &'d Runtime {
        data.runtime
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_read_as_envoy_writes_them() {
        let (local, remote) = ("127.0.0.1:443".parse().unwrap(), "[2001:db8::1]:7".parse().unwrap());
        let (local, remote) = (Address::Ip(local), Address::Ip(remote));
        let protocols = [b"h2".to_vec(), b"http/1.1".to_vec()];
        let candidate = Candidate {
            local: &local,
            remote: &remote,
            direct_remote: &local,
            server_name: Some("a.test"),
            transport_protocol: "tls",
            application_protocols: &protocols,
        };
        let data = ConnectionData { candidate: &candidate, runtime: &Runtime::default() };
        for (input, expected) in [
            (ConnectionInput::DestinationIp, Some("127.0.0.1")),
            (ConnectionInput::DestinationPort, Some("443")),
            (ConnectionInput::SourceIp, Some("2001:db8::1")),
            (ConnectionInput::SourcePort, Some("7")),
            (ConnectionInput::DirectSourceIp, Some("127.0.0.1")),
            (ConnectionInput::SourceType, None),
            (ConnectionInput::ServerName, Some("a.test")),
            (ConnectionInput::TransportProtocol, Some("tls")),
            (ConnectionInput::ApplicationProtocol, Some("'h2','http/1.1'")),
        ] {
            assert_eq!(input.read(&data).as_deref(), expected.map(str::as_bytes), "{input:?}");
        }
    }
}
