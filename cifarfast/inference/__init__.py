"""What a trained model says: logits, test-time augmentation, scores."""
