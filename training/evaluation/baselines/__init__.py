"""What a trained chain must beat, a file each; `registry` names them all."""
