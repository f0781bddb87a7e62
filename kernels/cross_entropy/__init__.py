"""Cross entropy: hard, mixed and soft labels, smoothing, class weights, focal γ."""
