"""The mistakes that ``tests/mutate.py`` plants. Mistakes with the same tests stand together: these run once without."""

from mutate import Mutation

SCHEDULE, SEGMENTS, OPTIMIZER = (
    "cifarfast/optim/schedule.py",
    "cifarfast/optim/segments.py",
    "cifarfast/optim/optimizer.py",
)
STEP, CHECKPOINTER = "cifarfast/training/step.py", "cifarfast/training/checkpointer.py"
CHECKPOINT, DATA = "cifarfast/runs/checkpoint.py", "cifarfast/data/base.py"
MIXING, COMBINE = "cifarfast/augment/reference.py", "cifarfast/ensembling/combine.py"

SCHEDULES = "tests/optim/test_schedule.py"
FIFTY_STEPS = "tests/training/test_step.py::test_fifty_steps_are_those_of_a_plain_loop[settings2]"
SKIPPED = "tests/training/test_nonfinite.py::test_skip_leaves_the_batch_out[settings0]"
RESUMED = "tests/training/test_resume.py::test_every_optimizer_resumes[sgd]"
RESUMED_AROUND = "tests/training/test_resume.py::test_what_is_around_the_optimizer_resumes[settings1]"
SPLITS = "tests/data/test_data_base.py"
DISTRIBUTIONS = "tests/augment/test_distributions.py"
MIXED = "tests/augment/test_mixing.py -k torch"
SCORES = "tests/inference/test_scores.py"
VOTES = "tests/ensembling/test_ensemble.py -k vote"

TRAINER = [
    # optim
    Mutation(
        "the warm-up begins a step late",
        SCHEDULE,
        "self._peak * (step + 1) / self._warmup_steps",
        "self._peak * step / self._warmup_steps",
        SCHEDULES,
    ),
    Mutation("plateau waits an epoch less", SCHEDULE, "_bad_epochs > self", "_bad_epochs >= self", SCHEDULES),
    Mutation("the cosine ends a step early", SCHEDULE, "t / self._steps", "t / max(self._steps - 1, 1)", SCHEDULES),
    Mutation(
        "a resumed plateau forgets its best loss",
        SCHEDULE,
        'state["factor"], state["best_loss"]',
        'state["factor"], math.inf',
        SCHEDULES,
    ),
    Mutation(
        "the shortest prefix counts", SEGMENTS, "max(keys, key=len)", "min(keys, key=len)", "tests/optim/test_flat.py"
    ),
    Mutation("biases decay", SEGMENTS, "parameter.ndim > 1", "parameter.ndim > 0", "tests/optim/test_flat.py"),
    Mutation(
        "AdamW's decay goes through the moments",
        OPTIMIZER,
        'decoupled = decoupled or recipe.optimizer == "adamw"',
        "decoupled = bool(decoupled)",
        "tests/optim/test_optimizers.py -k torchs",
    ),
    Mutation(
        "RMSprop's decay is Adam's",
        OPTIMIZER,
        'v, alpha = self._state("square_avg"), recipe.rms_alpha',
        'v, alpha = self._state("square_avg"), betas[1]',
        "tests/optim/test_optimizers.py -k torchs",
    ),
    Mutation(
        "Lookahead's average is not moved",
        OPTIMIZER,
        "self._average_in_step = None if recipe.lookahead_every else ema",
        "self._average_in_step = ema",
        "tests/optim/test_optimizers.py -k lookahead",
    ),
    Mutation(
        "Muon without Nesterov",
        "cifarfast/optim/muon.py",
        "grad.lerp_(buffer, self.momentum)",
        "grad.copy_(buffer)",
        "tests/optim/test_optimizers.py -k muon",
    ),
    Mutation(
        "Muon scales by rows/columns, not its root",
        "cifarfast/optim/muon.py",
        "max(1.0, rows / math.prod(others)) ** 0.5",
        "max(1.0, rows / math.prod(others))",
        "tests/optim/test_optimizers.py -k muon",
    ),
    # training
    Mutation(
        "the epochs have one order",
        STEP,
        "Purpose.SHUFFLE, epoch, self.device",
        "Purpose.SHUFFLE, 0, self.device",
        FIFTY_STEPS,
    ),
    Mutation(
        "SAM's first step is not perturbed",
        "cifarfast/optim/sharpness.py",
        "step % self.every == 0",
        "(step + 1) % self.every == 0",
        "tests/training/test_step.py::test_fifty_steps_are_those_of_a_plain_loop[settings1]",
    ),
    Mutation(
        "SAM's second pass moves the statistics",
        "cifarfast/optim/sharpness.py",
        "module.track_running_stats = False",
        "module.track_running_stats = True",
        FIFTY_STEPS,
    ),
    Mutation(
        "the average's counts stay",
        "cifarfast/optim/ema.py",
        "self.statistics.counts.copy_(self._followed.counts)",
        "pass",
        FIFTY_STEPS,
    ),
    Mutation(
        "the average's warm-up is slower",
        "cifarfast/optim/ema.py",
        "(1 + step) / (10 + step)) if",
        "step / (10 + step)) if",
        FIFTY_STEPS,
    ),
    Mutation(
        "the second loss is not judged",
        STEP,
        "judged = loss + second_loss",
        "judged = loss",
        "tests/training/test_nonfinite.py::test_the_second_loss_of_a_perturbed_step_counts_too[fp32]",
    ),
    Mutation(
        "statistics are not put back after a bad step",
        STEP,
        "torch.where(left_out, kept, values, out=values)",
        "torch.where(left_out, values, values, out=values)",
        "tests/training/test_nonfinite.py::test_a_bad_first_step_leaves_no_trace[sgd]",
    ),
    Mutation(
        "a bad step stops nothing after it",
        STEP,
        'self.recipe.on_nonfinite != "skip"',
        'self.recipe.on_nonfinite == "never"',
        "tests/training/test_nonfinite.py::test_stop_keeps_the_checkpoint_before_and_writes_the_batch_down[none]",
    ),
    Mutation(
        "a step left out counts in the epoch's loss",
        STEP,
        "batch.lam, left_out=left_out)",
        "batch.lam)",
        SKIPPED,
    ),
    Mutation(
        "an overflow is an update",
        STEP,
        "unchanged = left_out | overflow",
        "unchanged = left_out",
        "tests/training/test_nonfinite.py::test_an_overflow_in_fp16_is_a_step_that_counts",
    ),
    Mutation(
        "a plain step draws as half a perturbed one",
        STEP,
        "self._pass += 1 if perturbed else 2",
        "self._pass += 1",
        RESUMED_AROUND,
    ),
    Mutation("resume forgets the schedule", CHECKPOINTER, 'self.schedule.load(state["schedule"])', "pass", RESUMED),
    Mutation(
        "resume forgets the average",
        CHECKPOINTER,
        'step.ema.module.load_state_dict(tensors["ema"])',
        "pass",
        RESUMED,
    ),
    Mutation(
        "resume forgets the epoch's sums",
        CHECKPOINTER,
        'state["running"] if step.world.is_main else',
        'state["running"] if not step.world.is_main else',
        RESUMED,
    ),
    Mutation(
        "resume forgets the loss scale",
        CHECKPOINTER,
        'step.loss_scale.load(state["scaler"])',
        "pass",
        "tests/training/test_resume.py::test_every_precision_resumes[fp16]",
    ),
    Mutation(
        "the mean of an epoch weighs batches alike",
        "cifarfast/training/metrics.py",
        "alpha=len(labels))",
        "alpha=1)",
        "tests/training/test_parts.py",
    ),
    Mutation(
        "every purpose draws the same",
        "cifarfast/random.py",
        "index, epoch, int(purpose), block",
        "index, epoch, 0, block",
        "tests/training/test_parts.py",
    ),
    # runtime
    Mutation(
        "an item of a batch is nobody's",
        "cifarfast/runtime/distributed.py",
        "slice(count * self.rank // self.size, ",
        "slice(-(-count * self.rank // self.size), ",
        "tests/runtime/test_distributed.py::test_parts_cover_everything_once",
    ),
    Mutation(
        "unequal parts of a batch weigh alike",
        "cifarfast/runtime/distributed.py",
        "self.size * (part.stop - part.start) / count",
        "1.0",
        "tests/runtime/test_distributed.py::test_parts_cover_everything_once",
    ),
    # runs
    Mutation(
        "three checkpoints are kept",
        CHECKPOINT,
        "KEEP = 2",
        "KEEP = 3",
        "tests/runs/test_disk.py::test_the_two_newest_are_kept",
    ),
    Mutation(
        "the oldest checkpoint counts as the newest",
        CHECKPOINT,
        'sorted(folder.glob("step-*"), reverse=True)',
        'sorted(folder.glob("step-*"))',
        "tests/runs/test_disk.py::test_the_two_newest_are_kept",
    ),
    Mutation(
        "checksums are not compared",
        CHECKPOINT,
        ".hexdigest() != digest:",
        '.hexdigest() == "":',
        "tests/runs/test_disk.py -k 'damaged_checkpoints and flipped'",
    ),
    Mutation(
        "another data set is not noticed",
        CHECKPOINTER,
        'if state["fingerprint"] != self.splits.fingerprint',
        'if state["fingerprint"] == ""',
        "tests/runs/test_disk.py::test_checkpoint_trained_on_other_data",
    ),
    Mutation(
        "a file is overwritten in place",
        "cifarfast/runs/storage.py",
        'temporary = path.with_name(f".{path.name}.tmp")',
        "temporary = path",
        "tests/runs/test_disk.py::test_write_atomic_leaves_the_old_file_when_it_fails",
    ),
    # data
    Mutation("a split rounds down", DATA, "sum(counts) * fraction + 0.5)", "sum(counts) * fraction)", SPLITS),
    Mutation(
        "a class may lose all its samples",
        DATA,
        "if quotas[label] < counts[label] - 1",
        "if quotas[label] < counts[label]",
        SPLITS,
    ),
    Mutation(
        "the fixed test split is the validation's",
        DATA,
        "fraction, 0, _FIXED_TEST)",
        "fraction, 0, _VALIDATION)",
        SPLITS,
    ),
    Mutation(
        "a limit takes the first samples",
        DATA,
        "Purpose.SUBSET, 0)[:limit]",
        "Purpose.SUBSET, 0).sort().values[:limit]",
        SPLITS,
    ),
    Mutation(
        "EMNIST's characters lie on their side",
        "cifarfast/data/emnist.py",
        "np.ascontiguousarray(images.swapaxes(1, 2))",
        "np.ascontiguousarray(images)",
        "tests/data/test_data_emnist.py::test_every_split",
    ),
    Mutation(
        "EMNIST's letters count from 1",
        "cifarfast/data/emnist.py",
        "numbers -= 1",
        "numbers -= 0",
        "tests/data/test_data_emnist.py::test_every_split",
    ),
    Mutation(
        "CIFAR's channels are blue, green, red",
        "cifarfast/data/cifar.py",
        "planes[:, channel]",
        "planes[:, 2 - channel]",
        "tests/data/test_data_cifar.py -k layout",
    ),
    Mutation(
        "CIFAR-100's coarse labels are read",
        "cifarfast/data/cifar.py",
        "rows[:, layout.label_bytes - 1]",
        "rows[:, 0]",
        "tests/data/test_data_cifar.py -k layout",
    ),
    Mutation(
        "a pickle's integers have no sign",
        "cifarfast/data/pickles.py",
        '"little", signed=True)',
        '"little", signed=False)',
        "tests/data/test_data_pickles.py -k reads",
    ),
    Mutation(
        "a pickle may call any function",
        "cifarfast/data/pickles.py",
        "arguments and text_of(arguments[0]) in INTEGER_TYPES",
        "arguments",
        "tests/data/test_data_pickles.py -k refuses",
    ),
    # augment
    Mutation(
        "CutMix's weight is the box's share",
        MIXING,
        "box_lam = 1.0 - ops.divide(",
        "box_lam = ops.divide(",
        MIXED,
    ),
    Mutation(
        "CutMix's weight is that of the whole box",
        MIXING,
        "(b.clamp(0, n) - a.clamp(0, n))",
        "(b - a + 0 * n)",
        MIXED,
    ),
    Mutation(
        "Mixup's shares are exchanged",
        MIXING,
        "values * weight + other * (1.0 - weight)",
        "other * weight + values * (1.0 - weight)",
        MIXED,
    ),
    Mutation(
        "an image is mixed with itself",
        MIXING,
        "torch.where(candidates[0] == source, candidates[1], candidates[0])",
        "candidates[0]",
        MIXED,
    ),
    Mutation(
        "Beta's pole is cut off",
        "cifarfast/augment/mixing.py",
        "power = min(alpha, 1.0)",
        "power = 1.0",
        DISTRIBUTIONS + " -k quantiles",
    ),
    Mutation(
        "posterize takes a bit too few",
        "cifarfast/augment/policies.py",
        "round(position / ((bins - 1) / self.posterize_bits))",
        "round(position / (bins / self.posterize_bits))",
        "tests/augment/test_policies.py -k magnitudes",
    ),
    # inference, ensembling
    Mutation(
        "a calibration bin holds its lower edge",
        "cifarfast/inference/scores.py",
        "np.ceil(confidence * bins).astype(int) - 1",
        "np.floor(confidence * bins).astype(int)",
        SCORES,
    ),
    Mutation(
        "the top five are six",
        "cifarfast/inference/scores.py",
        ".sum(axis=1) < 5)",
        ".sum(axis=1) <= 5)",
        SCORES,
    ),
    Mutation(
        "a class without samples counts as 0",
        "cifarfast/inference/scores.py",
        "present = [row for row in rows if row.support]",
        "present = rows",
        SCORES,
    ),
    Mutation(
        "a merged class has its largest part's probability",
        "cifarfast/inference/label_map.py",
        "logits[:, target == c].logsumexp(dim=1)",
        "logits[:, target == c].amax(dim=1)",
        "tests/inference/test_evaluate.py -k merged",
    ),
    Mutation(
        "the vote means logarithms",
        COMBINE,
        "log_p = logits.double().log_softmax(dim=2) + self.weights.log()[:, None, None]",
        "return (logits.double().log_softmax(dim=2) * self.weights[:, None, None]).sum(dim=0).float()",
        "tests/ensembling/test_ensemble.py::test_a_vote_is_the_logarithm_of_the_weighted_mean_of_probabilities",
    ),
    Mutation(
        "the search takes one step",
        COMBINE,
        "if np.log(gain.max()) < GAP:",
        "if np.log(gain.max()) < 1.0:",
        "tests/ensembling/test_ensemble.py -k weights_of_two",
    ),
    Mutation(
        "a member's runs are added",
        COMBINE,
        "torch.full((1, count), 1 / count)",
        "torch.full((1, count), 1.0)",
        "tests/ensembling/test_ensemble.py::test_a_member_of_several_runs_counts_with_the_mean_of_their_logits",
    ),
]


def fp64(op: str, backend: str = "torch") -> str:
    """The test that compares an op's implementation with its reference in fp64."""
    return f"tests/kernels/test_op_specs.py::test_matches_fp64 -k '[{op}-{backend}-cpu and float32'"


INTERPRETED = "TRITON_INTERPRET=1"
LIBRARY, CROSS_ENTROPY = "kernels/library.py", "kernels/cross_entropy"
BATCH_NORM = "kernels/batch_norm/batch_norm_act/torch_impl.py"
OPTIMIZERS = "kernels/flat/flat_optimizer/reference.py"
TRAJECTORIES = "tests/kernels/test_flat_optimizer.py -k 'test_100_steps and torch-cpu'"
OF_LIBRARY = "tests/kernels/test_library.py"

KERNELS = [
    # implementations with torch ops
    Mutation(
        "the running variance is biased",
        BATCH_NORM,
        "factor * var * (n / (n - 1))",
        "factor * var",
        fp64("batch_norm_act"),
    ),
    Mutation(
        "the momentum is the old mean's share",
        BATCH_NORM,
        "(1 - factor) * running_mean.to(wide.dtype) + factor * mean",
        "factor * running_mean.to(wide.dtype) + (1 - factor) * mean",
        fp64("batch_norm_act"),
    ),
    Mutation(
        "no gradient goes through the variance",
        BATCH_NORM,
        "(_per_channel(d_bias) + normalized * _per_channel(d_weight)) / n",
        "_per_channel(d_bias) / n",
        fp64("batch_norm_act"),
    ),
    Mutation(
        "silu's slope has a wrong sign",
        "kernels/batch_norm/activations.py",
        "s * (1 + z * (1 - s))",
        "s * (1 - z * (1 - s))",
        fp64("batch_norm_act"),
    ),
    Mutation(
        "frozen norms' buffers are updated",
        "kernels/batch_norm/state.py",
        "updates = module.training and module.track_running_stats",
        "updates = module.training",
        "tests/kernels/test_shakedrop_bn_shortcut.py::test_untracked_statistics",
    ),
    Mutation(
        "the mean over pixels counts rows only",
        "kernels/pooling/global_avg_pool_act/torch_impl.py",
        "/ (x.shape[2] * x.shape[3])",
        "/ (x.shape[2] * x.shape[2])",
        fp64("global_avg_pool_act"),
    ),
    Mutation(
        "label smoothing leaves out the label's class",
        f"{CROSS_ENTROPY}/torch_impl.py",
        "target.label_smoothing / x.shape[1]",
        "target.label_smoothing / max(x.shape[1] - 1, 1)",
        fp64("cross_entropy"),
    ),
    Mutation(
        "dropout's threshold has a bit less",
        "kernels/dropout/draws.py",
        "round(self.p * 2**16)",
        "round(self.p * 2**15)",
        "tests/kernels/test_dropout.py -k torch-cpu",
    ),
    Mutation(
        "ShakeDrop's backward draws its forward's coefficient",
        "kernels/shakedrop/draws.py",
        "torch.where(keep, 1.0, uniform(words[2]))",
        "torch.where(keep, 1.0, uniform(words[1]))",
        "tests/kernels/test_shakedrop.py -k torch-cpu",
    ),
    Mutation(
        "an odd side's last window is halved",
        "kernels/shakedrop/shakedrop_bn_shortcut/torch_impl.py",
        "counts[-1] = 1.0",
        "counts[-1] = 0.5",
        fp64("shakedrop_bn_shortcut"),
    ),
    Mutation(
        "a fork loses the other gradient",
        "kernels/convolution/torch_impl.py",
        "batch_norm_act_backward(dz, x, norm, other=other)",
        "batch_norm_act_backward(dz, x, norm)",
        "tests/kernels/test_bn_act_conv2d.py -k 'test_fork_adds and torch-cpu'",
    ),
    Mutation(
        "a digit of Philox's multiplier",
        "kernels/philox.py",
        "0xCD9E8D57",
        "0xCD9E8D59",
        "tests/kernels/test_kernel_philox.py",
    ),
    Mutation(
        "Philox has nine rounds", "kernels/philox.py", "range(10)", "range(9)", "tests/kernels/test_kernel_philox.py"
    ),
    # flat
    Mutation(
        "Nesterov looks ahead by the whole momentum",
        OPTIMIZERS,
        "g.add_(m, alpha=rule.decay1) if",
        "g.add_(m) if",
        TRAJECTORIES,
    ),
    Mutation(
        "Adam's second moment is corrected by one step less",
        OPTIMIZERS,
        "(1 - torch.pow(rule.decay2, t)).rsqrt()",
        "(1 - torch.pow(rule.decay2, (t - 1).clamp(min=1))).rsqrt()",
        TRAJECTORIES,
    ),
    Mutation(
        "Adamax forgets its maximum at once",
        OPTIMIZERS,
        "torch.maximum(v.mul_(rule.decay2), g",
        "torch.maximum(v.mul_(rule.decay1), g",
        TRAJECTORIES,
    ),
    Mutation(
        "the penalty's gradient is c·w",
        "kernels/flat/flat_optimizer/torch_impl.py",
        "2 * piece.l2 if rule.decoupled else 2 * piece.l2",
        "piece.l2 if rule.decoupled else piece.l2",
        "tests/kernels/test_flat_optimizer.py -k 'test_l2 and torch-cpu'",
    ),
    Mutation(
        "ASAM scales without its square",
        "kernels/flat/flat_perturb/torch_impl.py",
        "w.abs().add_(eta).square_()",
        "w.abs().add_(eta)",
        "tests/kernels/test_flat_perturb.py -k torch-cpu",
    ),
    Mutation(
        "Lookahead is due a step early",
        "kernels/flat/flat_lookahead/torch_impl.py",
        "scalars[FlatScalar.STEP] % every == 0",
        "(scalars[FlatScalar.STEP] + 1) % every == 0",
        "tests/kernels/test_flat_lookahead.py -k torch-cpu",
    ),
    Mutation(
        "the average's decay is the new weights' share",
        "kernels/flat/flat_ema/torch_impl.py",
        "number(1 - scalars[FlatScalar.EMA_DECAY], ema.dtype)",
        "number(scalars[FlatScalar.EMA_DECAY], ema.dtype)",
        "tests/kernels/test_flat_ema.py -k torch-cpu",
    ),
    Mutation(
        "frozen segments count in the norm",
        "kernels/flat/flat_norm/torch_impl.py",
        "if piece.frozen is not True]",
        "if piece.frozen != 2]",
        "tests/kernels/test_flat_norm.py -k torch-cpu",
    ),
    # library
    Mutation(
        "autograd does not know of a write",
        LIBRARY,
        "torch.autograd.graph.increment_version(flat[i])",
        "pass",
        f"{OF_LIBRARY}::test_a_write_is_seen_by_autograd",
    ),
    Mutation(
        "a compiled op leaves its buffers",
        LIBRARY,
        "flat[i].copy_(value)",
        "pass",
        f"{OF_LIBRARY}::test_values_gradients_and_buffer -k 'compiled and not no'",
    ),
    Mutation(
        "a second derivative is taken for zero",
        LIBRARY,
        '        raise RuntimeError(\n            f"{self._operator.name} has no gradient',
        "        return (None,) * len(self._operator.fields)\n"
        '        raise RuntimeError(\n            f"{self._operator.name} has no gradient',
        f"{OF_LIBRARY}::test_second_derivative_is_an_error",
    ),
    Mutation(
        "a returned input's gradient is dropped",
        LIBRARY,
        "{self._names[0]: other}",
        "{self._names[0]: None}",
        f"{OF_LIBRARY}::test_returned_input[x-eager]",
    ),
    # replace
    Mutation(
        "a new module begins in training",
        "kernels/replace/swap.py",
        "new.training = old.training",
        "pass",
        "tests/kernels/test_replace_modules.py::test_parameters_buffers_and_mode_stay",
    ),
    Mutation(
        "an activation with other users is removed",
        "kernels/replace/plan.py",
        "calls[act] == n for calls",
        "calls[act] >= n for calls",
        "tests/kernels/test_replace_reasons.py",
    ),
    Mutation(
        "every ELU is the plain one",
        "kernels/replace/module_rules.py",
        "isinstance(module, nn.ELU) and module.alpha != 1",
        "isinstance(module, nn.ELU) and module.alpha == 0",
        "tests/kernels/test_replace_reasons.py",
    ),
    # kernels, interpreted
    Mutation(
        "a kernel's counter is not put back",
        "kernels/last_block.py",
        "tl.store(counter_ptr, 0)",
        "tl.store(counter_ptr, 1)",
        "tests/kernels/test_last_block.py -k triton-cpu",
        INTERPRETED,
    ),
    Mutation(
        "counters in a row leave the last out",
        "kernels/last_block.py",
        "first + n > SLOTS",
        "first + n >= SLOTS",
        "tests/kernels/test_last_block.py -k counters_in_a_row",
    ),
    Mutation(
        "the kernel smooths over one class less",
        f"{CROSS_ENTROPY}/triton_impl.py",
        "share * (label_smoothing / n_classes)",
        "share * (label_smoothing / tl.maximum(n_classes - 1, 1))",
        fp64("cross_entropy", "triton"),
        INTERPRETED,
    ),
    Mutation(
        "the kernel averages pixels that there are not",
        "kernels/pooling/global_avg_pool_act/triton_impl.py",
        "tl.where(ok, activate(normalize(x, affine), negative_slope, ACT), 0.0)",
        "activate(normalize(x, affine), negative_slope, ACT)",
        fp64("global_avg_pool_act", "triton"),
        INTERPRETED,
    ),
    Mutation(
        "the kernel's silu has a wrong slope",
        "kernels/batch_norm/activations_triton.py",
        "s * (1.0 + z * (1.0 - s))",
        "s * (1.0 + z * s)",
        "tests/kernels/test_op_specs.py::test_matches_fp64 -k '[batch_norm_act-triton-cpu-one and float32'",
        INTERPRETED,
    ),
    Mutation(
        "chunks' means weigh alike",
        "kernels/batch_norm/triton_moments.py",
        "tl.sum(m2 + weights * difference * difference, axis=0)",
        "tl.sum(m2 + difference * difference, axis=0)",
        "tests/kernels/test_op_specs.py::test_matches_fp64 -k '[batch_norm_act-triton-cpu-one and float32'",
        INTERPRETED,
    ),
    Mutation(
        "the kernel's Nesterov looks ahead by the whole momentum",
        "kernels/flat/flat_optimizer/triton_impl.py",
        "direction = g + decay1 * m",
        "direction = g + m",
        fp64("flat_optimizer", "triton"),
        INTERPRETED,
    ),
    Mutation(
        "the kernel drops at the threshold too",
        "kernels/dropout/triton_draws.py",
        "bits >= threshold",
        "bits > threshold",
        "tests/kernels/test_dropout.py -k triton-cpu",
        INTERPRETED,
    ),
]

MUTATIONS = [*TRAINER, *KERNELS]
