"""What the report says in words: findings, the headline, remarks on training."""
