"""The motion module and the UNet that carries it."""
