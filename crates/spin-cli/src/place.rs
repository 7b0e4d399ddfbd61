//! `--device`: where a program computes.

use std::fmt;

use crate::launched::{launched, own_gpu};

/// Where a program computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On the CPU.
    Cpu,
    /// On a GPU, or on this process's own of several.
    Gpu,
    /// On the GPU of this number.
    ThisGpu(usize),
}

const GIVE: &str = "give cpu, cuda or cuda:N";

impl Place {
    /// Reads `cpu`, `cuda` or `cuda:N`.
    ///
    /// # Errors
    /// When it is something else.
    pub fn parse(text: &str) -> Result<Place, String> {
        match text.split_once(':') {
            None if text == "cpu" => Ok(Place::Cpu),
            None if text == "cuda" => Ok(Place::Gpu),
            Some(("cuda", number)) => number.parse().map(Place::ThisGpu).map_err(|_| GIVE.into()),
            _ => Err(GIVE.into()),
        }
    }

    /// `cpu` or `cuda`.
    pub fn kind(self) -> &'static str {
        match self {
            Place::Cpu => "cpu",
            Place::Gpu | Place::ThisGpu(_) => "cuda",
        }
    }

    /// Which GPU, of those that `CUDA_VISIBLE_DEVICES` leaves; processes that were
    /// started together take turns. `None` for the CPU.
    pub fn gpu(self) -> Option<usize> {
        match self {
            Place::Cpu => None,
            Place::ThisGpu(number) => Some(number),
            Place::Gpu => {
                let local = launched().and_then(|launched| launched.local_rank).unwrap_or(0);
                let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok();
                Some(own_gpu(local, visible.as_deref()))
            }
        }
    }
}

/// As it was given.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::ThisGpu(number) => write!(f, "cuda:{number}"),
            other => f.write_str(other.kind()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_and_written_alike() {
        for (text, place) in [("cpu", Place::Cpu), ("cuda", Place::Gpu), ("cuda:3", Place::ThisGpu(3))] {
            assert_eq!((Place::parse(text), place.to_string()), (Ok(place), text.to_owned()));
        }
        assert_eq!((Place::Cpu.gpu(), Place::ThisGpu(3).gpu()), (None, Some(3)));
        for wrong in ["", "gpu", "cuda:", "cuda:x", "cpu:0", "cuda:-1"] {
            assert_eq!(Place::parse(wrong), Err(GIVE.to_owned()), "{wrong}");
        }
    }
}
