"""What a host does at AWS: parts by settings, the API's stack, prices."""
