//! Who runs the kernels of the tests.

use std::sync::OnceLock;

use spin_cuda::Runner;
use spin_cuda_host::compiled;

use crate::elsewhere;

/// The host, or what `SPIN_TEST_DEVICE` says, `gpu` or `elsewhere` (the host, with memory copied as for a GPU). `None`
/// where there is no C++ compiler.
pub fn host() -> Option<&'static dyn Runner> {
    static CHOSEN: OnceLock<Option<Box<dyn Runner + Send + Sync>>> = OnceLock::new();
    let chosen = CHOSEN.get_or_init(|| match std::env::var("SPIN_TEST_DEVICE").as_deref() {
        Ok("gpu") => Some(elsewhere::gpu()),
        Ok("elsewhere") => compiled().map(elsewhere::on_host),
        Ok(other) => panic!("SPIN_TEST_DEVICE is gpu or elsewhere, not {other}"),
        Err(_) => compiled().map(|host| Box::new(host) as Box<dyn Runner + Send + Sync>),
    });
    chosen.as_deref().map(|runner| runner as &dyn Runner)
}
