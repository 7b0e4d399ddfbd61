//! A causal language model: named parameters, log-probabilities of answers,
//! and the Hugging Face directory it is read from and written to.

mod adapter;
mod compute;

pub use compute::Accumulation;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};

use crate::backend::Kernels;
use crate::config::ModelConfig;
use crate::decoder::{Decoder, Linear};
use crate::error::{Error, Result};
use crate::lora::{self, LoraConfig};
use crate::params::written;
use crate::{init, weights};

/// A decoder-only transformer to train, whole or by an adapter.
#[derive(Debug, Clone)]
pub struct CausalLm {
    config: Arc<ModelConfig>,
    params: BTreeMap<String, Var>,
    adapter: Option<(LoraConfig, BTreeMap<String, Var>)>,
    decoder: Decoder,
    settings: Settings,
    device: Device,
    dtype: DType,
}

/// How a model is computed; none of it changes what is computed, but for what
/// adapters drop, which is decided by row.
#[derive(Debug, Clone, Copy)]
struct Settings {
    kernels: Kernels,
    recompute_every: usize,
    share_prompts: bool,
}

impl CausalLm {
    /// Reads a Hugging Face directory (`config.json` with `model.safetensors`
    /// or its shards), converting the weights to `dtype`.
    ///
    /// What `torch.compile` and data parallelism put before the names of
    /// tensors is taken off where the rest fits.
    ///
    /// # Errors
    ///
    /// If a file is absent or malformed, the architecture is not supported, a
    /// tensor is missing, unexpected, of the wrong shape or holds NaN or an
    /// infinity, or a tensor that is not used is not equal to what stands for
    /// it.
    pub fn load(dir: &Path, device: &Device, dtype: DType) -> Result<Self> {
        let config = ModelConfig::load(dir)?;
        let place = Kernels::of(device, &config).keeps_weights(device);
        let tensors = weights::read_model(dir, &config, &place, dtype)?;
        Self::from_tensors(config, tensors, device, dtype)
    }

    /// Whether [`CausalLm::load`] would read a directory, as far as can be told
    /// without reading the weights: its configuration, and the names, shapes
    /// and types of its tensors. Programs that leave the reading to another
    /// library ask this first.
    ///
    /// # Errors
    ///
    /// As [`CausalLm::load`].
    pub fn check_dir(dir: &Path) -> Result<ModelConfig> {
        let config = ModelConfig::load(dir)?;
        weights::check_model(dir, &config)?;
        Ok(config)
    }

    /// Makes a model with fresh f32 weights: normal with standard deviation
    /// `initializer_range`, norms at 1, biases at 0, as transformers does.
    ///
    /// A tensor's weights depend on the seed and its name alone, and are the
    /// same on every machine.
    ///
    /// # Errors
    ///
    /// If the device cannot hold the weights.
    pub fn init(config: &ModelConfig, seed: u64, device: &Device) -> Result<Self> {
        let shapes = config.param_shapes();
        let numbers = |shape: &[usize]| shape.iter().fold(1_usize, |all, size| all.saturating_mul(*size));
        let bytes = shapes.iter().fold(0_usize, |all, (_, shape)| all.saturating_add(numbers(shape).saturating_mul(4)));
        Vec::<u8>::new().try_reserve_exact(bytes).map_err(|_| Error::Memory { bytes })?;
        let place = Kernels::of(device, config).keeps_weights(device);
        let mut tensors = BTreeMap::new();
        for (name, shape) in shapes {
            let len = shape.iter().product();
            let values = if name.ends_with("bias") {
                vec![0.0; len]
            } else if shape.len() == 1 {
                vec![1.0 - config.norm_offset as f32; len]
            } else {
                let mut values = init::standard_normal(seed, &name, len);
                let range = config.initializer_range as f32;
                values.iter_mut().for_each(|value| *value *= range);
                values
            };
            tensors.insert(name, Tensor::from_vec(values, shape, &place)?);
        }
        Self::from_tensors(config.clone(), tensors, device, DType::F32)
    }

    fn from_tensors(
        config: ModelConfig,
        tensors: BTreeMap<String, Tensor>,
        device: &Device,
        dtype: DType,
    ) -> Result<Self> {
        let mut params = BTreeMap::new();
        for (name, tensor) in tensors {
            params.insert(name, Var::from_tensor(&tensor)?);
        }
        let config = Arc::new(config);
        let kernels = Kernels::of(device, &config);
        Ok(Self {
            decoder: Decoder::new(&config, &params),
            config,
            params,
            adapter: None,
            settings: Settings { kernels, recompute_every: 0, share_prompts: true },
            device: device.clone(),
            dtype,
        })
    }

    /// A model with the same weights rounded to a type, without the adapter.
    ///
    /// # Errors
    ///
    /// If the device cannot hold a second set of weights.
    pub fn to_dtype(&self, dtype: DType) -> Result<Self> {
        let tensors =
            self.params.iter().map(|(name, var)| Ok((name.clone(), var.as_detached_tensor().to_dtype(dtype)?)));
        let tensors = tensors.collect::<Result<_>>()?;
        let mut model = Self::from_tensors((*self.config).clone(), tensors, &self.device, dtype)?;
        model.settings = self.settings;
        Ok(model)
    }

    /// The same model computing with other kernels, for tests and
    /// measurements. The weights are shared, not copied: composed kernels compute
    /// where they are, which [`CausalLm::composed_on`] changes.
    pub fn with_kernels(&self, kernels: Kernels) -> Self {
        let mut model = self.clone();
        model.settings.kernels = kernels;
        model
    }

    /// A model with the same weights, without the adapter, copied to a device and
    /// computed there by candle's operations.
    ///
    /// # Errors
    ///
    /// If the device cannot hold them.
    pub fn composed_on(&self, device: &Device) -> Result<Self> {
        let copied = |(name, var): (&String, &Var)| Ok((name.clone(), var.as_detached_tensor().to_device(device)?));
        let tensors = self.params.iter().map(copied).collect::<Result<_>>()?;
        let mut model = Self::from_tensors((*self.config).clone(), tensors, device, self.dtype)?;
        model.settings = Settings { kernels: Kernels::Composed, ..self.settings };
        Ok(model)
    }

    /// The same model keeping only the inputs of every `blocks`-th block
    /// between the forward and the backward pass, and computing the rest
    /// again: a third more work for memory that hardly grows with depth. 0
    /// keeps everything. The weights are shared, not copied.
    pub fn with_recompute(&self, blocks: usize) -> Self {
        let mut model = self.clone();
        model.settings.recompute_every = blocks;
        model
    }

    /// The same model computing the prompt that a group's sequences share once
    /// (as it does unless told otherwise) or for each of them. Composed kernels
    /// always do the latter. The weights are shared, not copied.
    pub fn with_shared_prompts(&self, share: bool) -> Self {
        let mut model = self.clone();
        model.settings.share_prompts = share;
        model
    }

    /// The configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The device that it is computed on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The data type of the weights.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The model's tensors by Hugging Face name, in the order of the names.
    /// An adapter's are not among them. Who writes to one says so by
    /// [`crate::written`].
    pub fn params(&self) -> &BTreeMap<String, Var> {
        &self.params
    }

    /// The tensors that training changes, by name: all of [`CausalLm::params`],
    /// or the adapter's where the model has one. Who writes to one says so by
    /// [`crate::written`].
    pub fn trainable(&self) -> &BTreeMap<String, Var> {
        self.adapter.as_ref().map_or(&self.params, |(_, tensors)| tensors)
    }

    /// Number of numbers in [`CausalLm::params`].
    pub fn num_params(&self) -> usize {
        self.params.values().map(|var| var.elem_count()).sum()
    }

    /// Number of numbers that training changes.
    pub fn num_trainable(&self) -> usize {
        self.trainable().values().map(|var| var.elem_count()).sum()
    }

    /// The name of a trained tensor that holds NaN or an infinity, if one does.
    ///
    /// # Errors
    ///
    /// If the tensor operation fails.
    pub fn not_finite(&self) -> Result<Option<String>> {
        for (name, var) in self.trainable() {
            if !weights::is_finite(&var.as_detached_tensor())? {
                return Ok(Some(name.clone()));
            }
        }
        Ok(None)
    }

    /// Replaces everything training changes, such as by the weights of a
    /// checkpoint.
    ///
    /// # Errors
    ///
    /// If a tensor is missing, unexpected, of the wrong shape or not finite; the
    /// weights are then as they were.
    pub fn set_trainable(&self, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
        let problem = |tensor: &str, message: String| Error::Tensor {
            path: "the weights to restore".to_owned(),
            tensor: tensor.to_owned(),
            message,
        };
        let trainable = self.trainable();
        if let Some(name) = tensors.keys().find(|name| !trainable.contains_key(*name)) {
            return Err(problem(name, "the model has no such tensor".to_owned()));
        }
        let mut converted = Vec::with_capacity(trainable.len());
        for (name, var) in trainable {
            let tensor = tensors.get(name).ok_or_else(|| problem(name, "is missing".to_owned()))?;
            if tensor.dims() != var.dims() {
                return Err(problem(
                    name,
                    format!("has shape {:?} where the model has {:?}", tensor.dims(), var.dims()),
                ));
            }
            if !weights::is_finite(tensor)? {
                return Err(problem(name, "holds NaN or an infinity".to_owned()));
            }
            converted.push((var, tensor.to_device(var.device())?.to_dtype(var.dtype())?));
        }
        for (var, tensor) in converted {
            var.set(&tensor)?;
            written(var);
        }
        Ok(())
    }

    /// Writes `config.json` and the weights into an existing directory; equal
    /// weights give equal bytes. Files beyond [`crate::DEFAULT_MAX_SHARD_BYTES`]
    /// are split.
    ///
    /// # Errors
    ///
    /// If a file cannot be written.
    pub fn save(&self, dir: &Path) -> Result<()> {
        self.save_sharded(dir, weights::DEFAULT_MAX_SHARD_BYTES)
    }

    /// As [`CausalLm::save`], with another limit on the size of a file of
    /// weights. A single tensor larger than the limit gets a file of its own.
    ///
    /// # Errors
    ///
    /// If a file cannot be written.
    pub fn save_sharded(&self, dir: &Path, max_shard_bytes: usize) -> Result<()> {
        self.write(dir, max_shard_bytes, &BTreeMap::new())
    }

    /// As [`CausalLm::save`], with the adapter merged into the weights one
    /// tensor at a time.
    ///
    /// # Errors
    ///
    /// If a file cannot be written.
    pub fn save_merged(&self, dir: &Path) -> Result<()> {
        self.write(dir, weights::DEFAULT_MAX_SHARD_BYTES, &lora::adapted(&self.decoder))
    }

    /// Writes the directory, the weights of some projections merged with their
    /// adapters.
    fn write(&self, dir: &Path, max_shard_bytes: usize, merged: &BTreeMap<&str, &Linear>) -> Result<()> {
        let config = self.config.to_json(weights::dtype_name(self.dtype));
        weights::write_bytes(&dir.join("config.json"), config.as_bytes())?;
        let tensors = self.params.iter().map(|(name, var)| match merged.get(name.as_str()).copied() {
            Some(linear) => weights::Stored::made(name, var.as_detached_tensor(), move || lora::merged(linear)),
            None => weights::Stored::of(name, var.as_detached_tensor()),
        });
        weights::write_dir(dir, tensors.collect(), max_shard_bytes)
    }
}
