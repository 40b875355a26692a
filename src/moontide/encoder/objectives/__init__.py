"""What training optimizes: pure functions of vectors and masks; a loss knows no model."""
