"""Networks beside the UNet that read pictures, and add to its features."""
