//! A causal language model: named parameters, log-probabilities of answers,
//! and the Hugging Face directory it is read from and written to.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};

use crate::batch::{Batch, Layout, RowPlan};
use crate::config::ModelConfig;
use crate::decoder::{Decoder, Linear};
use crate::error::{Error, Result};
use crate::gradients::Gradients;
use crate::lora::{self, LoraConfig};
use crate::{composed, cpu, init, weights};

/// Which implementation computes a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernels {
    /// Hand-written operations with hand-written backward passes; on the CPU,
    /// in f32 whatever the type of the weights.
    Fused,
    /// Compositions of candle's operations; any device and type.
    Composed,
}

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
        let tensors = weights::read_model(dir, &config, device, dtype)?;
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
            tensors.insert(name, Tensor::from_vec(values, shape, device)?);
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
        let kernels = if device.is_cpu() { Kernels::Fused } else { Kernels::Composed };
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
    /// measurements. The weights are shared, not copied.
    pub fn with_kernels(&self, kernels: Kernels) -> Self {
        let mut model = self.clone();
        model.settings.kernels = kernels;
        model
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

    /// The same model with a fresh adapter, which computes nothing yet and is
    /// all that training changes. A tensor of the adapter depends on the seed
    /// and its name alone.
    ///
    /// # Errors
    ///
    /// If the settings make no sense or name a projection the model lacks.
    pub fn with_new_adapter(&self, config: &LoraConfig, seed: u64) -> Result<Self> {
        let error = |message| Error::Config { origin: "the adapter's settings".to_owned(), message };
        config.check().map_err(error)?;
        self.with_adapter(config.clone(), &lora::Source::Seed(seed))
    }

    /// The same model with an adapter read from a directory in PEFT's format.
    /// `base` is the identity of this model's weights, compared with the one
    /// the adapter says it was trained on, if it does.
    ///
    /// # Errors
    ///
    /// If the adapter is malformed, asks for more than LoRA, or belongs to
    /// another base.
    pub fn load_adapter(&self, dir: &Path, base: Option<&str>) -> Result<Self> {
        let bare = self.without_adapter();
        let (config, tensors) = lora::read(dir, &bare.decoder, base, &self.device)?;
        bare.with_adapter(config, &lora::Source::Tensors(&tensors))
    }

    fn with_adapter(&self, config: LoraConfig, source: &lora::Source<'_>) -> Result<Self> {
        let mut model = self.without_adapter();
        let config = lora::expanded(&model.decoder, &config);
        let tensors = lora::attach(&mut model.decoder, &config, source, &self.device)?;
        model.adapter = Some((config, tensors));
        Ok(model)
    }

    /// Whether this model's adapter is what these settings make; dropout may
    /// differ. Without an adapter it is not.
    pub fn adapter_is(&self, config: &LoraConfig) -> bool {
        self.adapter().is_some_and(|own| own.computes_like(&lora::expanded(&self.decoder, config)))
    }

    /// The weights in their places, and nothing else that holds them.
    pub(crate) fn into_decoder(self) -> Decoder {
        self.decoder
    }

    /// The base alone. The weights are shared, not copied.
    pub fn without_adapter(&self) -> Self {
        Self { adapter: None, decoder: Decoder::new(&self.config, &self.params), ..self.clone() }
    }

    /// The settings of the adapter, if there is one.
    pub fn adapter(&self) -> Option<&LoraConfig> {
        self.adapter.as_ref().map(|(config, _)| config)
    }

    /// Writes the adapter into an existing directory, in PEFT's format.
    /// `base_path` is what PEFT finds the base by, `base` the identity of its
    /// weights.
    ///
    /// # Errors
    ///
    /// If there is no adapter or a file cannot be written.
    pub fn save_adapter(&self, dir: &Path, base_path: &str, base: Option<&str>) -> Result<()> {
        match &self.adapter {
            Some((config, tensors)) => lora::write(dir, config, tensors, base_path, base),
            None => Err(Error::Config {
                origin: dir.display().to_string(),
                message: "there is no adapter to save".to_owned(),
            }),
        }
    }

    /// A model without adapter that computes what this one does, with weights
    /// of its own.
    ///
    /// # Errors
    ///
    /// If the device cannot hold a second set of weights.
    pub fn merge_adapter(&self) -> Result<Self> {
        let adapted = lora::adapted(&self.decoder);
        let mut tensors: BTreeMap<String, Tensor> = BTreeMap::new();
        for (name, var) in &self.params {
            let tensor = match adapted.get(name.as_str()) {
                Some(linear) => lora::merged(linear)?,
                None => var.as_detached_tensor().copy()?,
            };
            tensors.insert(name.clone(), tensor);
        }
        let mut model = Self::from_tensors((*self.config).clone(), tensors, &self.device, self.dtype)?;
        model.settings = self.settings;
        Ok(model)
    }

    /// The configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The device the weights are on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The data type of the weights.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The model's tensors by Hugging Face name, in the order of the names.
    /// An adapter's are not among them.
    pub fn params(&self) -> &BTreeMap<String, Var> {
        &self.params
    }

    /// The tensors that training changes, by name: all of [`CausalLm::params`],
    /// or the adapter's where the model has one.
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
            converted.push((var, tensor.to_device(&self.device)?.to_dtype(var.dtype())?));
        }
        for (var, tensor) in converted {
            var.set(&tensor)?;
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

    /// The log-probability of every response token, per sequence; without
    /// gradients, and without the memory they need.
    ///
    /// # Errors
    ///
    /// If a sequence is longer than the model's positions or a token is
    /// outside its vocabulary.
    pub fn response_token_logps(&self, batch: &Batch) -> Result<Vec<Vec<f32>>> {
        let plan = self.plan(batch)?;
        let logps = match self.settings.kernels {
            Kernels::Fused => cpu::row_logps(&self.decoder, &plan)?,
            Kernels::Composed => composed::row_logps(&self.decoder, &plan)?,
        };
        let mut rest = logps.as_slice();
        Ok(plan
            .responses
            .iter()
            .map(|length| {
                let (own, others) = rest.split_at(*length);
                rest = others;
                own.to_vec()
            })
            .collect())
    }

    /// The log-probability of each response given its prompt, summed over the
    /// response's tokens; without gradients, and without the memory they need.
    ///
    /// # Errors
    ///
    /// As [`CausalLm::response_token_logps`].
    pub fn sum_logps(&self, batch: &Batch) -> Result<Vec<f64>> {
        let tokens = self.response_token_logps(batch)?;
        Ok(tokens.into_iter().map(|logps| logps.into_iter().map(f64::from).sum()).collect())
    }

    /// The log-probabilities of the responses, as [`CausalLm::sum_logps`], and
    /// the gradient of a loss that is a sum over the groups of the batch.
    ///
    /// `slopes` is told a group's number and its responses' log-probabilities
    /// and gives the derivative of the loss by each of them; it is called once
    /// for each group, in order. The gradient is added to `grads`, which says
    /// what is trained: only [`CausalLm::trainable`] belongs there. With
    /// `smoothing`, torch's `cross_entropy(label_smoothing=smoothing)`, a token
    /// counts (1 - smoothing) log p(target) + smoothing mean over v of log p(v).
    ///
    /// # Errors
    ///
    /// As [`CausalLm::response_token_logps`].
    pub fn accumulate_gradients(
        &self,
        batch: &Batch,
        smoothing: f64,
        slopes: &mut dyn FnMut(usize, &[f64]) -> Vec<f64>,
        grads: &mut Gradients,
    ) -> Result<Vec<f64>> {
        let plan = self.plan(batch)?;
        let every = self.settings.recompute_every;
        match self.settings.kernels {
            Kernels::Fused => Ok(cpu::accumulate_gradients(&self.decoder, &plan, smoothing, every, slopes, grads)?),
            Kernels::Composed => composed::accumulate_gradients(&self.decoder, &plan, smoothing, every, slopes, grads),
        }
    }

    /// The logits after each token of one sequence: `[seq, vocab]` f32.
    ///
    /// # Errors
    ///
    /// If there are no tokens, or as [`CausalLm::response_token_logps`].
    pub fn logits(&self, ids: &[u32]) -> Result<Tensor> {
        if ids.is_empty() {
            return Err(Error::Batch { sequence: 0, message: "there are no tokens".to_owned() });
        }
        // Batch's checks apply to any split into prompt and response.
        if ids.len() > 1 {
            let batch = Batch::new([(&ids[..1], &ids[1..])])?;
            batch.check(self.config.vocab_size, self.config.max_position_embeddings)?;
        }
        let plan = RowPlan::every_row(ids);
        Ok(match self.settings.kernels {
            Kernels::Fused => {
                let logits = cpu::logits(&self.decoder, &plan)?;
                Tensor::from_vec(logits, (ids.len(), self.config.vocab_size), &self.device)?
            }
            Kernels::Composed => composed::logits(&self.decoder, &plan)?,
        })
    }

    /// The weights in their places.
    pub(crate) fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// Which implementation computes this model.
    pub(crate) fn kernels(&self) -> Kernels {
        self.settings.kernels
    }

    /// How the batch becomes rows, checked.
    fn plan(&self, batch: &Batch) -> Result<RowPlan> {
        batch.check(self.config.vocab_size, self.config.max_position_embeddings)?;
        let layout = match self.settings {
            Settings { kernels: Kernels::Composed, .. } => Layout::Padded,
            Settings { share_prompts: true, .. } => Layout::SharedPrompts,
            _ => Layout::Packed,
        };
        Ok(RowPlan::new(batch, layout))
    }
}
