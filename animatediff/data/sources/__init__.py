"""Where videos come from: tables, folders and tars to ids, captions and addresses, and addresses to bytes."""
