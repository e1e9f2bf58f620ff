"""What each denoising step computes, and what it takes from the steps before."""
