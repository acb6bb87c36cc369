"""Operations on trained variables: folding for inference, and starting from other weights."""
