"""What a run leaves behind: its folder, checkpoints, the environment it ran in."""
