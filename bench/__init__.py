"""Where the README's figures come from: each case is measured against the same work done the plain way, in the same run."""
