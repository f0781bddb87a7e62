"""The mistakes that ``tests/mutate.py`` plants. Mistakes with the same tests stand together: these run once without."""

from mutate import Mutation

SCHEDULE, SEGMENTS, OPTIMIZER = "cifarfast/optim/schedule.py", "cifarfast/optim/segments.py", "cifarfast/optim/optimizer.py"
STEP, CHECKPOINTER = "cifarfast/training/step.py", "cifarfast/training/checkpointer.py"
CHECKPOINT, DATA = "cifarfast/runs/checkpoint.py", "cifarfast/data/base.py"
MIXING, COMBINE = "cifarfast/augment/reference.py", "cifarfast/ensembling/combine.py"

SCHEDULES = "tests/optim/test_schedule.py"
FIFTY_STEPS = "tests/training/test_step.py::test_fifty_steps_are_those_of_a_plain_loop"
SKIPPED = "tests/training/test_nonfinite.py::test_skip_leaves_the_batch_out"
RESUMED = "tests/training/test_resume.py::test_every_optimizer_resumes[sgd]"
RESUMED_AROUND = "tests/training/test_resume.py::test_what_is_around_the_optimizer_resumes"
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
    Mutation("the shortest prefix counts", SEGMENTS, "max(keys, key=len)", "min(keys, key=len)", "tests/optim/test_flat.py"),
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
        "v, alpha = self._state(\"square_avg\"), recipe.rms_alpha",
        "v, alpha = self._state(\"square_avg\"), betas[1]",
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
        "tests/training/test_step.py -k fifty_steps",
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
        "tests/training/test_nonfinite.py::test_the_second_loss_of_a_perturbed_step_counts_too",
    ),
    Mutation(
        "statistics are not put back after a bad step",
        STEP,
        "torch.where(left_out, kept, values, out=values)",
        "torch.where(left_out, values, values, out=values)",
        "tests/training/test_nonfinite.py::test_a_bad_first_step_leaves_no_trace",
    ),
    Mutation(
        "a bad step stops nothing after it",
        STEP,
        'self.recipe.on_nonfinite != "skip"',
        'self.recipe.on_nonfinite == "never"',
        "tests/training/test_nonfinite.py::test_stop_keeps_the_checkpoint_before_and_writes_the_batch_down",
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
        "1.0 * (part.stop - part.start) / (part.stop - part.start)",
        "tests/runtime/test_distributed.py -k parts_cover_everything_once",
    ),
    # runs
    Mutation("three checkpoints are kept", CHECKPOINT, "KEEP = 2", "KEEP = 3", "tests/runs/test_disk.py::test_the_two_newest_are_kept"),
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
        "tests/runs/test_disk.py -k damaged_checkpoints",
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
        "min(max(int(share), 1), count - 1)",
        "max(int(share), 1)",
        SPLITS,
    ),
    Mutation(
        "the fixed test split is the validation's",
        DATA,
        "fraction, 0, _FIXED_TEST)",
        "fraction, 0, _VALIDATION)",
        SPLITS,
    ),
    Mutation("a limit takes the first samples", DATA, "Purpose.SUBSET, 0)[:limit]", "Purpose.SUBSET, 0).sort().values[:limit]", SPLITS),
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
        "a policy's first operation comes twice",
        MIXING,
        "start + chosen * per_entry + k]",
        "start + chosen * per_entry]",
        "tests/augment/test_against_torchvision.py -k autoaugment",
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

MUTATIONS = [*TRAINER]
