"""Inside the reader child: untrusted bytes to frames, faces and crops."""
