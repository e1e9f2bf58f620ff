"""Objects of Kubernetes: its own, KubeRay's and Kueue's, as files have them and as the overlays make them."""
