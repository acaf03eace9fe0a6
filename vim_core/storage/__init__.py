"""Reading and writing on local disk and object stores."""
