use tch::{Kind, Tensor};

/// Scales `gradients` in place so that their joint 2-norm is at most `max_norm`; gives the norm before.
/// `torch.nn.utils.clip_grad_norm_`, its 1e-6 included.
pub fn clip_grad_norm(gradients: &mut [Tensor], max_norm: f64) -> f64 {
    let _guard = tch::no_grad_guard();
    let norms: Vec<Tensor> = gradients.iter().map(|g| g.to_kind(Kind::Float).norm()).collect();
    if norms.is_empty() {
        return 0.0;
    }
    let total = Tensor::stack(&norms, 0).norm().double_value(&[]);
    let scale = max_norm / (total + 1e-6);
    if scale < 1.0 {
        for gradient in gradients {
            let _ = gradient.g_mul_scalar_(scale);
        }
    }
    total
}
