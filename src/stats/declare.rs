//! The declaration of a group of stats, one line each.

/// Declares a struct of stats and how it is registered: the field's name is Envoy's name of the stat, its doc comment
/// is the description in docs/statistics.md, which is generated from these declarations.
///
/// ```
/// portreeve::stats::declare! {
///     /// Of every listener, under `listener.<address>.`
///     pub struct ListenerStats {
///         /// Connections accepted.
///         downstream_cx_total: Counter,
///         /// Connections open now.
///         downstream_cx_active: Gauge,
///         /// Lifetime of a connection, in milliseconds.
///         downstream_cx_length_ms: Histogram,
///     }
/// }
///
/// let registry = portreeve::stats::Registry::new(1);
/// let stats = ListenerStats::new(&registry.scope("listener.127.0.0.1:80"));
/// stats.downstream_cx_total.inc();
/// ```
#[macro_export]
#[doc(hidden)]
macro_rules! __declare_stats {
    (
        $(#[$about:meta])*
        $visibility:vis struct $name:ident {
            $($(#[$description:meta])* $stat:ident: $kind:ident,)+
        }
    ) => {
        $(#[$about])*
        #[allow(clippy::struct_field_names, reason = "the names are Envoy's")]
        #[derive(Clone, Debug)]
        $visibility struct $name {
            $($(#[$description])* pub $stat: $crate::stats::$kind,)+
        }

        impl $name {
            /// Registers these stats in `scope`.
            #[must_use]
            $visibility fn new(scope: &$crate::stats::Scope) -> Self {
                Self { $($stat: $crate::__declare_stats!(@register scope $kind $stat),)+ }
            }
        }
    };
    (@register $scope:ident Counter $stat:ident) => { $scope.counter(stringify!($stat)) };
    (@register $scope:ident Gauge $stat:ident) => { $scope.gauge(stringify!($stat)) };
    (@register $scope:ident Histogram $stat:ident) => { $scope.histogram(stringify!($stat)) };
}

pub use __declare_stats as declare;
