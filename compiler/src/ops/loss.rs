//! MseLoss: the mean squared difference, the loss of a training step.

use super::unary::second_order;
use super::{Case, operator};
use crate::autodiff::Grad;
use crate::error::{Error, Result};
use crate::ir::{Type, ValueId};
use crate::lower::Lower;

operator! {
    /// `loss = mean((x - t)^2)`. Operands: `x`, `t`.
    MseLoss {}

    fn infer(&self, inputs: &[Option<&Type>]) -> Result<Vec<Type>, String> {
        let [Some(x), Some(t)] = inputs else { return Err("takes two operands".into()) };
        if x != t || !x.dtype.is_float() {
            return Err("prediction and target have different types".into());
        }
        Ok(vec![x.with_shape(&[])])
    }

    fn grad(&self, g: &mut Grad<'_>, wrt: usize) -> Result<Option<ValueId>> {
        if wrt != 0 {
            return Err(Error::Option("the target of a loss does not train".into()));
        }
        let (x, t) = (g.input(0), g.input(1));
        g.emit(MseLossGrad {}, &[x, t]).map(Some)
    }

    fn lower(&self, l: &mut Lower<'_>) {
        let args = [Some(l.input(0)), Some(l.input(1)), Some(l.output(0))];
        l.launch("mse_loss", &args, vec![]);
    }

    fn cases() -> Vec<Case> {
        vec![Case::new(MseLoss {}, &["f32[2,3]", "f32[2,3]"])]
    }
}

operator! {
    /// `dx = 2 (x - t) / n`: the gradient of the loss itself is 1. Operands: `x`, `t`.
    MseLossGrad {}

    fn infer(&self, inputs: &[Option<&Type>]) -> Result<Vec<Type>, String> {
        let [Some(x), Some(t)] = inputs else { return Err("takes two operands".into()) };
        if x != t {
            return Err("prediction and target have different types".into());
        }
        Ok(vec![(*x).clone()])
    }

    fn grad(&self, _: &mut Grad<'_>, _: usize) -> Result<Option<ValueId>> {
        Err(second_order(Self::NAME))
    }

    fn lower(&self, l: &mut Lower<'_>) {
        let args = [Some(l.input(0)), Some(l.input(1)), Some(l.output(0))];
        l.launch("mse_loss_grad", &args, vec![]);
    }

    fn cases() -> Vec<Case> {
        vec![Case::new(MseLossGrad {}, &["f32[2,3]", "f32[2,3]"])]
    }
}
