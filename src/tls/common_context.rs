//! What both sides of TLS are told: `envoy.extensions.transport_sockets.tls.v3.CommonTlsContext`.

use std::{sync::Arc, time::SystemTime};

use crate::{
    config::field::Field,
    proto::tls::{
        CommonTlsContext,
        common_tls_context::{CombinedCertificateValidationContext, ValidationContextType},
    },
};

use super::{
    Secrets, certificate::Certificate, files::FileReader, key_log::ConnectionKeyLog, parameters::Parameters,
    validation::Validation,
};

/// Loaded and checked.
pub(super) struct CommonContext {
    pub(super) parameters: Parameters,
    pub(super) certificates: Vec<Arc<Certificate>>,
    pub(super) validation: Option<Arc<Validation>>,
    pub(super) alpn_protocols: Vec<Vec<u8>>,
    pub(super) key_log: Option<ConnectionKeyLog>,
    /// What statistics call the certificates and authorities, and when each ends.
    pub(super) expirations: Vec<(String, Option<SystemTime>)>,
}

impl CommonContext {
    /// Certificates and authorities may be given in place, or by the name of a static secret.
    pub(super) fn from_proto(
        proto: Option<&CommonTlsContext>,
        field: Field<'_>,
        secrets: &Secrets,
        files: &FileReader,
    ) -> Option<CommonContext> {
        let default = CommonTlsContext::default();
        let CommonTlsContext {
            tls_params,
            tls_certificates,
            tls_certificate_sds_secret_configs,
            tls_certificate_provider_instance,
            custom_tls_certificate_selector,
            tls_certificate_certificate_provider,
            tls_certificate_certificate_provider_instance,
            alpn_protocols,
            custom_handshaker,
            key_log,
            validation_context_type,
        } = proto.unwrap_or(&default);
        field.unsupported("tls_certificate_provider_instance", tls_certificate_provider_instance);
        field.unsupported("custom_tls_certificate_selector", custom_tls_certificate_selector);
        field.unsupported("tls_certificate_certificate_provider", tls_certificate_certificate_provider);
        field.unsupported(
            "tls_certificate_certificate_provider_instance",
            tls_certificate_certificate_provider_instance,
        );
        field.unsupported("custom_handshaker", custom_handshaker);
        let key_log = match key_log {
            Some(proto) => Some(ConnectionKeyLog::from_proto(proto, field.key("key_log"))?),
            None => None,
        };

        let parameters = Parameters::from_proto(tls_params.as_ref(), field.key("tls_params"));
        let inline: Vec<_> = tls_certificates
            .iter()
            .enumerate()
            .map(|(index, proto)| Certificate::from_proto(proto, field.key("tls_certificates").index(index), files))
            .collect();
        let named: Vec<_> = tls_certificate_sds_secret_configs
            .iter()
            .enumerate()
            .map(|(index, reference)| {
                secrets.certificate(reference, field.key("tls_certificate_sds_secret_configs").index(index), files)
            })
            .collect();
        let validation = match validation_context_type {
            Some(context) => Some(validation(context, field, secrets, files)?),
            None => None,
        };
        let certificates: Option<Vec<_>> = inline.into_iter().chain(named).collect();
        let (parameters, mut certificates) = (parameters?, certificates?);
        if let Some(schemes) = &parameters.signatures {
            for certificate in &mut certificates {
                *certificate = certificate.limited_to(schemes);
            }
        }
        let secret_names = tls_certificate_sds_secret_configs.iter().map(|reference| &reference.name);
        let names = tls_certificates.iter().map(|_| None).chain(secret_names.map(Some));
        let own = certificates.iter().zip(names).map(|(certificate, name)| {
            (name.unwrap_or(&certificate.stat_name).clone(), certificate.loaded.facts.not_after)
        });
        let authority = validation.as_ref().and_then(|validation| {
            let trust = validation.trust.as_ref()?;
            let name = validation_context_type.as_ref().and_then(secret_name).unwrap_or(&trust.stat_name);
            Some((name.clone(), trust.loaded.first()?.facts.not_after))
        });
        Some(CommonContext {
            key_log,
            expirations: own.chain(authority).collect(),
            parameters,
            certificates,
            validation,
            alpn_protocols: alpn_protocols.iter().map(|protocol| protocol.clone().into_bytes()).collect(),
        })
    }
}

/// The name of the secret that holds the authorities, if one does.
fn secret_name(context: &ValidationContextType) -> Option<&String> {
    let reference = match context {
        ValidationContextType::ValidationContextSdsSecretConfig(reference) => reference,
        ValidationContextType::CombinedValidationContext(combined) => {
            combined.validation_context_sds_secret_config.as_ref()?
        }
        _ => return None,
    };
    Some(&reference.name)
}

fn validation(
    context: &ValidationContextType,
    field: Field<'_>,
    secrets: &Secrets,
    files: &FileReader,
) -> Option<Arc<Validation>> {
    match context {
        ValidationContextType::ValidationContext(proto) => {
            Validation::from_proto(proto, field.key("validation_context"), files)
        }
        ValidationContextType::ValidationContextSdsSecretConfig(reference) => {
            secrets.validation(reference, field.key("validation_context_sds_secret_config"), files)
        }
        ValidationContextType::CombinedValidationContext(combined) => {
            let CombinedCertificateValidationContext {
                default_validation_context,
                validation_context_sds_secret_config,
                validation_context_certificate_provider,
                validation_context_certificate_provider_instance,
            } = combined;
            let field = field.key("combined_validation_context");
            field.unsupported("validation_context_certificate_provider", validation_context_certificate_provider);
            field.unsupported(
                "validation_context_certificate_provider_instance",
                validation_context_certificate_provider_instance,
            );
            let default = field.required("default_validation_context", default_validation_context)?;
            match validation_context_sds_secret_config {
                Some(reference) => secrets.combined_validation(default, reference, field, files),
                None => Validation::from_proto(default, field.key("default_validation_context"), files),
            }
        }
        ValidationContextType::ValidationContextCertificateProvider(provider) => {
            field.unsupported("validation_context_certificate_provider", &Some(provider));
            None
        }
        ValidationContextType::ValidationContextCertificateProviderInstance(provider) => {
            field.unsupported("validation_context_certificate_provider_instance", &Some(provider));
            None
        }
    }
}
