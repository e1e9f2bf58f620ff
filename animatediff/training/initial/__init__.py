"""What training starts from: fresh weights in the shape that the config asks for, or a file's."""
