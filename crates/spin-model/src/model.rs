//! A causal language model: named parameters, log-probabilities of answers,
//! and the Hugging Face directory it is read from and written to.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{D, DType, Device, Tensor, Var};

use crate::batch::{Batch, RowPlan};
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::gradients::Gradients;
use crate::llama::Decoder;
use crate::ops::{self, Kernels};
use crate::{init, weights};

/// A decoder-only transformer whose every weight is trainable.
#[derive(Debug, Clone)]
pub struct CausalLm {
    config: ModelConfig,
    params: BTreeMap<String, Var>,
    decoder: Decoder,
    kernels: Kernels,
    device: Device,
    dtype: DType,
}

impl CausalLm {
    /// Reads a Hugging Face directory (`config.json` with `model.safetensors`
    /// or its shards), converting the weights to `dtype`.
    ///
    /// # Errors
    ///
    /// If a file is absent or malformed, the architecture is not supported, or
    /// a tensor is missing, unexpected or of the wrong shape.
    pub fn load(dir: &Path, device: &Device, dtype: DType) -> Result<Self> {
        let config = ModelConfig::load(dir)?;
        let tied = config.tie_word_embeddings;
        // Old checkpoints store the rotary frequencies, and some the tied
        // output projection; both are functions of what is read.
        let ignorable = |name: &str| name.ends_with(".rotary_emb.inv_freq") || (tied && name == "lm_head.weight");
        let tensors = weights::read_dir(dir, &config.param_shapes(), ignorable, device, dtype)?;
        Self::from_tensors(config, tensors, device, dtype)
    }

    /// Makes a model with fresh f32 weights: normal with standard deviation
    /// `initializer_range`, norms at 1, as transformers initialises Llama.
    ///
    /// A tensor's weights depend on the seed and its name alone, and are the
    /// same on every machine.
    ///
    /// # Errors
    ///
    /// If the device cannot hold the weights.
    pub fn init(config: &ModelConfig, seed: u64, device: &Device) -> Result<Self> {
        let mut tensors = BTreeMap::new();
        for (name, shape) in config.param_shapes() {
            let len = shape.iter().product();
            let values = if shape.len() == 1 {
                vec![1.0; len]
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
        Ok(Self {
            decoder: Decoder::new(&config, &params),
            kernels: Kernels::for_tensors(device, dtype),
            config,
            params,
            device: device.clone(),
            dtype,
        })
    }

    /// The same model computing with other kernels, for tests and
    /// measurements. The weights are shared, not copied.
    pub fn with_kernels(&self, kernels: Kernels) -> Self {
        Self { kernels, ..self.clone() }
    }

    /// The same model keeping only the blocks' inputs between the forward and
    /// the backward pass, and computing the rest again: a third more work for
    /// memory that hardly grows with depth. Composed kernels ignore it. The
    /// weights are shared, not copied.
    pub fn with_recompute(&self, recompute: bool) -> Self {
        Self { decoder: self.decoder.with_recompute(recompute), ..self.clone() }
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

    /// The trainable tensors by Hugging Face name, in the order of the names.
    pub fn params(&self) -> &BTreeMap<String, Var> {
        &self.params
    }

    /// The tensors that training changes, by name: all of [`CausalLm::params`],
    /// or the adapter's where the model has one.
    pub fn trainable(&self) -> &BTreeMap<String, Var> {
        &self.params
    }

    /// Number of trainable numbers.
    pub fn num_params(&self) -> usize {
        self.params.values().map(|var| var.elem_count()).sum()
    }

    /// Replaces all weights, such as by those of a checkpoint.
    ///
    /// # Errors
    ///
    /// If a tensor is missing, unexpected or of the wrong shape; the weights
    /// are then as they were.
    pub fn set_params(&self, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
        let problem = |tensor: &str, message: String| Error::Tensor {
            path: "the weights to restore".to_owned(),
            tensor: tensor.to_owned(),
            message,
        };
        if let Some(name) = tensors.keys().find(|name| !self.params.contains_key(*name)) {
            return Err(problem(name, "the model has no such tensor".to_owned()));
        }
        let mut converted = Vec::with_capacity(self.params.len());
        for (name, var) in &self.params {
            let tensor = tensors.get(name).ok_or_else(|| problem(name, "is missing".to_owned()))?;
            if tensor.dims() != var.dims() {
                return Err(problem(
                    name,
                    format!("has shape {:?} where the model has {:?}", tensor.dims(), var.dims()),
                ));
            }
            converted.push((var, tensor.to_device(&self.device)?.to_dtype(self.dtype)?));
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
        let config = self.config.to_json(weights::dtype_name(self.dtype));
        weights::write_bytes(&dir.join("config.json"), config.as_bytes())?;
        let tensors = self.params.iter().map(|(name, var)| (name.as_str(), var.as_tensor()));
        weights::write_dir(dir, tensors, max_shard_bytes)
    }

    /// The log-probability of each response given its prompt, summed over the
    /// response's tokens: `[batch]` f32, differentiable.
    ///
    /// # Errors
    ///
    /// If a sequence is longer than the model's positions or a token is
    /// outside its vocabulary.
    pub fn response_logps(&self, batch: &Batch) -> Result<Tensor> {
        self.smoothed_response_logps(batch, 0.0)
    }

    /// As [`CausalLm::response_logps`] with label smoothing, torch's
    /// `cross_entropy(label_smoothing=smoothing)`: a token counts
    /// (1 - smoothing) log p(target) + smoothing mean over v of log p(v).
    ///
    /// # Errors
    ///
    /// As [`CausalLm::response_logps`].
    pub fn smoothed_response_logps(&self, batch: &Batch, smoothing: f64) -> Result<Tensor> {
        let (logps, plan) = self.token_logps(&self.decoder, batch, smoothing)?;
        let owners = Tensor::new(plan.owners.as_slice(), &self.device)?;
        let zeros = Tensor::zeros(batch.len(), DType::F32, &self.device)?;
        Ok(zeros.index_add(&owners, &logps, 0)?)
    }

    /// The log-probability of every response token, per sequence; without
    /// gradients, and without the memory they need.
    ///
    /// # Errors
    ///
    /// As [`CausalLm::response_logps`].
    pub fn response_token_logps(&self, batch: &Batch) -> Result<Vec<Vec<f32>>> {
        let (logps, _) = self.token_logps(&self.decoder.detach(), batch, 0.0)?;
        let logps = logps.to_vec1::<f32>()?;
        let mut rest = logps.as_slice();
        Ok(batch
            .response_lengths()
            .into_iter()
            .map(|length| {
                let (own, others) = rest.split_at(length);
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
    /// As [`CausalLm::response_logps`].
    pub fn sum_logps(&self, batch: &Batch) -> Result<Vec<f64>> {
        let tokens = self.response_token_logps(batch)?;
        Ok(tokens.into_iter().map(|logps| logps.into_iter().map(f64::from).sum()).collect())
    }

    /// The log-probabilities of the responses, as [`CausalLm::sum_logps`], and
    /// the gradient of a loss that is a sum over the groups of the batch.
    ///
    /// `slopes` is told a group's number and its responses' log-probabilities
    /// and gives the derivative of the loss by each of them; it is called once
    /// for each group, in order. The gradient is added to `grads`. With
    /// `smoothing` the log-probabilities are smoothed, as in
    /// [`CausalLm::smoothed_response_logps`].
    ///
    /// # Errors
    ///
    /// As [`CausalLm::response_logps`].
    pub fn accumulate_gradients(
        &self,
        batch: &Batch,
        smoothing: f64,
        slopes: &mut dyn FnMut(usize, &[f64]) -> Vec<f64>,
        grads: &mut Gradients,
    ) -> Result<Vec<f64>> {
        let logps = self.smoothed_response_logps(batch, smoothing)?;
        let values: Vec<f64> = logps.to_vec1::<f32>()?.into_iter().map(f64::from).collect();
        let mut factors = Vec::with_capacity(values.len());
        let mut rest = values.as_slice();
        for (group, size) in batch.group_sizes().iter().enumerate() {
            let (own, others) = rest.split_at(*size);
            rest = others;
            factors.extend(slopes(group, own).into_iter().map(|slope| slope as f32));
        }
        let factors = Tensor::from_vec(factors, values.len(), &self.device)?;
        let mut store = (logps * factors)?.sum_all()?.backward()?;
        for (name, var) in self.trainable() {
            if let Some(grad) = store.remove(var) {
                grads.add(name, &grad)?;
            }
        }
        Ok(values)
    }

    /// The logits after each token of one sequence: `[seq, vocab]` f32.
    ///
    /// # Errors
    ///
    /// If there are no tokens, or as [`CausalLm::response_logps`].
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
        let hidden = self.decoder.forward(&plan, self.kernels, &self.device)?;
        let logits = ops::composed::linear(&hidden, self.decoder.output_weight())?;
        Ok(logits.to_dtype(DType::F32)?)
    }

    /// `[response tokens]` f32, sequence by sequence. The output projection
    /// sees only rows that predict a response token.
    fn token_logps(&self, decoder: &Decoder, batch: &Batch, smoothing: f64) -> Result<(Tensor, RowPlan)> {
        batch.check(self.config.vocab_size, self.config.max_position_embeddings)?;
        let plan = RowPlan::new(batch, self.kernels == Kernels::Fused);
        let hidden = decoder.forward(&plan, self.kernels, &self.device)?;
        let targets = Tensor::new(plan.targets.as_slice(), &self.device)?;
        let weight = decoder.output_weight();
        let mut logps = self.kernels.linear_logps(&hidden, weight, &targets)?;
        if smoothing > 0.0 {
            // Mean and target share their log-sum-exp, so the mean of the
            // log-probabilities exceeds the target's by h (mean(W) - W[target]).
            let to_mean = weight.mean_keepdim(0)?.broadcast_sub(&weight.index_select(&targets, 0)?)?;
            let excess = (&hidden * &to_mean)?.sum(D::Minus1)?.to_dtype(DType::F32)?;
            logps = (logps + (excess * smoothing)?)?;
        }
        debug_assert_eq!(logps.dim(D::Minus1)?, plan.owners.len());
        Ok((logps, plan))
    }
}
