//! The parameters of a prepared statement: which types a plan gives them, and what a client is told of that.

use std::collections::{BTreeMap, HashMap};

use arrow_pg::datatypes::df::deserialize_parameters_with_server_types;
use arrow_pg::datatypes::{PG_OID_ALIAS_KEY, into_pg_type, pg_type_for_alias_kind};
use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::ParamValues;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{Expr, LogicalPlan};
use pgwire::api::Type;
use pgwire::api::portal::Portal;
use pgwire::error::{PgWireError, PgWireResult};

/// A parameter's type in the plan, where that says one, and on the wire.
struct Parameter {
    form: Option<DataType>,
    wire: Type,
}

/// The types of all, in their order.
pub(crate) fn types(plan: &LogicalPlan) -> PgWireResult<Vec<Type>> {
    Ok(of(plan)?.into_iter().map(|parameter| parameter.wire).collect())
}

/// The values that a portal was bound with.
pub(crate) fn values<S: Clone>(portal: &Portal<S>, plan: &LogicalPlan) -> PgWireResult<ParamValues> {
    let parameters = of(plan)?;
    let forms: Vec<Option<&DataType>> = parameters.iter().map(|parameter| parameter.form.as_ref()).collect();
    let wires: Vec<Option<&Type>> = parameters.iter().map(|parameter| Some(&parameter.wire)).collect();
    deserialize_parameters_with_server_types(portal, &forms, &wires)
}

fn of(plan: &LogicalPlan) -> PgWireResult<Vec<Parameter>> {
    let failed = |error: DataFusionError| PgWireError::ApiError(Box::new(error));
    let mut casts = HashMap::new();
    let mut fields: HashMap<String, FieldRef> = HashMap::new();
    let walked = plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expression| {
            expression.apply(|part| {
                match part {
                    Expr::Cast(cast) => {
                        if let Expr::Placeholder(placeholder) = cast.expr.as_ref() {
                            casts.insert(placeholder.id.clone(), cast.field.data_type().clone());
                        }
                    }
                    Expr::Placeholder(placeholder) => {
                        fields.extend(placeholder.field.clone().map(|field| (placeholder.id.clone(), field)));
                    }
                    _ => {}
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    });
    walked.map_err(failed)?;
    let mut parameters = BTreeMap::new();
    for (id, form) in plan.get_parameter_types().map_err(failed)? {
        let form = form.or_else(|| casts.get(&id).cloned());
        // The catalog's numbers are of a type of their own, in which clients bind them.
        let alias = fields.get(&id).filter(|field| *field.data_type() == DataType::Int32);
        let alias = alias.and_then(|field| pg_type_for_alias_kind(field.metadata().get(PG_OID_ALIAS_KEY)?));
        let wire = match (alias, &form) {
            (Some(alias), _) => alias,
            (None, Some(form)) => into_pg_type(form)?,
            (None, None) => Type::UNKNOWN,
        };
        let place = id.trim_start_matches('$').parse::<u32>().unwrap_or(u32::MAX);
        parameters.insert(place, Parameter { form, wire });
    }
    Ok(parameters.into_values().collect())
}
